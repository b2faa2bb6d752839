"""The verification of snapshots and backups."""
