"""The probes that HEAR trains on embeddings: by the official heareval, or in batches."""
