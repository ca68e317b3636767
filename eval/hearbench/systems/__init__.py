"""Systems behind the HEAR API, to compare with.

specs         names systems, and loads them; catalog: those that come with hearbench
fingerprint   digests of everything that an embedding depends on
naive, spectrum, logmel                           baselines without training
audiomae, beats, mwmae, passt, ssam, ssast        published models, built from their checkpoints
huggingface, msm_mae                              adapters to others' code
parts/        what several of them share
"""
