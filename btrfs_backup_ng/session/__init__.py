"""What all actions of one call share: the connections, the history, progress, turns."""
