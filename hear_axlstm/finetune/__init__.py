"""Fine-tuning on labeled clips: a probe on frozen embeddings, or the whole encoder."""
