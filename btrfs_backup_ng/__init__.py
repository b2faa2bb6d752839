"""Incremental btrfs backups to local disks, other machines and any command."""

PROGRAM = "btrfs-backup-ng"
__version__ = "0.1.0"
