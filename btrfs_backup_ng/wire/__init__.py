"""The commands that a shell runs, here and over ssh: their form, and the verbs."""
