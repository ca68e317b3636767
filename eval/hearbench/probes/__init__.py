"""Training of HEAR's probes on embeddings, by the official heareval or in batches."""
