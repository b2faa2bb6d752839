"""Messages about the runs of a configuration, to a person or another program."""
