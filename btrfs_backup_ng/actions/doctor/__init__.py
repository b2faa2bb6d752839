"""Finding the reasons for which a backup would fail."""
