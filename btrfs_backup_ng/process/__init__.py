"""Commands, and pipelines of them: started, watched, fed, ended, and found guilty."""
