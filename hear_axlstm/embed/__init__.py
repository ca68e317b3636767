"""Embedding of clips: batching, streaming, export, and whole folders of files."""
