"""What the program can do: a module or folder for each command, under its name."""
