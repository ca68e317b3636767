"""Self-supervised pretraining: masked log-mel patches, reconstructed (paper section 3.2)."""
