"""What several systems share: front ends, chunks of clips, layers, readers of checkpoints."""
