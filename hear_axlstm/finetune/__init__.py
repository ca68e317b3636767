"""Fine-tuning on labeled clips: a head on frozen embeddings, or the whole encoder."""
