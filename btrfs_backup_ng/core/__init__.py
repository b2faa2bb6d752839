"""Decisions: values in, values out; no file, process or clock is touched here."""
