"""The restore of snapshots and files."""
