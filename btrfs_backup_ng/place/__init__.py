"""A place and the knowledge about it: its contents, its records, its lock."""
