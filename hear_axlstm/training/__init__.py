"""Training code shared by pretraining and fine-tuning: the trainer and its parts.

    trainer       runs the steps; logs, saves, resumes and stops
    step          one optimizer step over micro-batches; average: weights averaged over steps
    optimizer     AdamW, Muon; schedule: learning rates
    checkpoints   one checkpoint file; checkpoint_manager: those of a run; resume: start of a run
    logging       log.jsonl, TensorBoard, Weights & Biases; meter: speed and memory
    distributed   ranks; signals: stop requests; device: devices, threads, memory

Nothing here depends on the data, or on more of the model than the names of its tensors in files.
"""
