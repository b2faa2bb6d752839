"""Checking that backups are what they should be."""
