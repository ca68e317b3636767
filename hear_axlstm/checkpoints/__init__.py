"""Weights: resolving names, downloading, reading and writing.

    locate    a name, path or hf:// address -> a local file that matches its checksum
    read      a file -> settings, facts about the training, tensors; save writes one
    fill      tensors -> a model, checked

`load_embedder` and `initialize` build models from these. Nothing in a file is executed.
"""

from hear_axlstm.checkpoints.format import FILE_NAME, HEADER_KEY, fill, read, save
from hear_axlstm.checkpoints.loading import building, initialize, load_embedder
from hear_axlstm.checkpoints.resolve import locate, manifest

__all__ = [
    "FILE_NAME",
    "HEADER_KEY",
    "building",
    "fill",
    "initialize",
    "load_embedder",
    "locate",
    "manifest",
    "read",
    "save",
]
