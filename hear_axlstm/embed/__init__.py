"""Clips to embeddings: batching, streaming, export, and whole folders of files."""
