"""The configuration: the keys, the file, and the jobs that it stands for."""
