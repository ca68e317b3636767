"""The plan of an evaluation, and its resumable computation."""
