"""The values that all actions of a call share: connections, history, progress."""
