"""Training data: audio packed once into memory-mapped shards, from which batches are cropped."""
