"""Man pages and completions, made of the options of the program."""
