"""Training data: audio packed once into memory-mapped shards, from which batches are cropped.

    pack          `axlstm pack`; extract: log-mel in several processes; estimate: size and time
    shards        the store of `axlstm pack` and `axlstm embed`: one unit of work each, resumable
    corpus        a finished pack, opened for reading
    dataset       batches of crops; balance: how often each clip is drawn

A pack depends neither on the number of processes nor on interruptions, and a batch only on the
pack, the seed and the step.
"""
