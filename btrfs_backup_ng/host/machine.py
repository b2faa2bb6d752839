"""This machine, as snapshots are named after it."""

import os


def usual_prefix() -> str:
    """Return the start of snapshots' names unless another prefix is asked for."""
    return f"{os.uname().nodename}-"
