"""The desk: words of the command line -> jobs, events -> lines on stdout."""
