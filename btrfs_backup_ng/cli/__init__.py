"""The command line: words -> jobs, events -> lines on stdout."""
