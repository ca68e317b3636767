"""Training of HEAR's probes on embeddings, by the official heareval or in batches.

grid          settings of the probes and their search space
official      the engine heareval: the official package
fast/         the engine fast: all seeds and grid points together
runs          the folder of one run, as both engines write it
"""
