"""The deletion of snapshots that no rule keeps, and of interrupted transfers."""
