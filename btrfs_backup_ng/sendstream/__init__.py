"""What ``btrfs send`` writes and ``btrfs receive`` reads: pure, no process, no file."""
