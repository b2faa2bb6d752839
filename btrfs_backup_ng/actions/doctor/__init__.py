"""Finding out what would keep a backup from working."""
