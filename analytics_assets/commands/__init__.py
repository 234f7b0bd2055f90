"""The commands that stand apart from the pipeline: each module is one command or one group."""
