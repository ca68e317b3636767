"""What pretraining and fine-tuning share: processes, signals, checkpoints, logs, optimizer."""
