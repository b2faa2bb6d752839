"""Backing up: snapshots of a source, carried to its destinations."""
