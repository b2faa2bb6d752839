"""Where commands run: this machine, or one behind ssh."""
