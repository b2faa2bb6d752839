"""What is said to btrfs, and what it answers."""
