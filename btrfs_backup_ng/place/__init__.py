"""A place, and what is known of it: its contents, its records, its lock."""
