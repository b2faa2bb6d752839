"""The tests of btrfs-backup-ng."""
