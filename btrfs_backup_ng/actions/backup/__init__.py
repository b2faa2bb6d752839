"""The backup: snapshots of a source, sent to its destinations."""
