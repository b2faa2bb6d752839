"""The ``status`` verb: its options, and each form in which it shows the state."""
