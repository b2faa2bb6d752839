"""Deleting what no rule keeps, and what transfers left behind."""
