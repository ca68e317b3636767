"""Commands of `python -m paper`, one per file."""
