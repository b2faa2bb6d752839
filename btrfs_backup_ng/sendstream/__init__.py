"""Send streams, from ``btrfs send`` to ``btrfs receive``: bytes only, no process."""
