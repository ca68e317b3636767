"""Clips to embeddings: calls with any number of clips, live audio, and whole folders.

    embedder      Embedder, the model with its calls
    inputs        arguments and answers of a call; clip_loader: its clips as samples, decoded ahead
    clip_encoder  samples to steps and scenes; windows: batches of windows, and the times of steps
    fused         encoding on a CPU with fused weights; fused_block: one block of them
    eager         what torch.compile leaves alone
    stream        live audio, one step at a time
    export        the model as one graph, for other runtimes

    scenes        scenes of listed clips, one at a time
    files         `axlstm embed`; output: its output and when it is up to date; writers: formats

Methods `embed_*` take what users have, `encode_*` take tensors.
"""
