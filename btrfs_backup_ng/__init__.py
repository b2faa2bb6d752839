"""Incremental btrfs backups to local disks, other machines and any command."""

__version__ = "0.1.0"
