"""Bringing snapshots and files back."""
