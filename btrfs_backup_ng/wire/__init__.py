"""The words spoken to a shell, here and behind ssh: their form, and the verbs."""
