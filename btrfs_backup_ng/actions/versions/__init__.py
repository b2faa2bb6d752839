"""The search for the versions of a file in all snapshots."""
