"""The actions of the program: a module or folder for each command, under its name."""
