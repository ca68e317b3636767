"""What pretraining and fine-tuning share: the trainer and its parts.

    trainer       runs the steps; logs, saves, resumes and stops
    step          one optimizer step over micro-batches; average: weights averaged over steps
    optimizer     AdamW, Muon; schedule: learning rates
    checkpoints   one checkpoint file; checkpoint_manager: those of a run; resume: where to start
    logging       log.jsonl, TensorBoard, Weights & Biases; meter: speed and memory
    distributed   ranks; signals: stop requests; device: devices, threads, micro-batches

Nothing here knows what is trained or on which data.
"""
