"""The transfer of one snapshot: measure, choose a route, move, check, retry."""
