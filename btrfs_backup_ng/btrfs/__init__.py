"""The interface to btrfs: ioctls, and the output of btrfs-progs."""
