"""Finding the versions of a file in all snapshots."""
