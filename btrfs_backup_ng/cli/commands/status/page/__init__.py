"""The page of ``status --html``: what it shows, gathered first, and drawn then."""
