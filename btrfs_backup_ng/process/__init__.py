"""Commands, and pipelines of them: starting, feeding, watching, ending, blaming."""
