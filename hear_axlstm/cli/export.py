"""`axlstm export`: the model as ONNX or a torch.export program, for other runtimes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm import load_model
from hear_axlstm.config import Pooling
from hear_axlstm.embed.export import export as write_graph
from hear_axlstm.embed.inputs import Kind
from hear_axlstm.options import POOLINGS, option


def export(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    model: Annotated[str, option("WEIGHTS")] = "",
    kind: Kind = "scene",
    pooling: Annotated[Pooling | None, option(POOLINGS)] = None,
) -> None:
    """Write an embedding model as ONNX or as a torch.export program.

    Args:
        out: File to write: OUT.onnx, or OUT.pt2 for torch.export.load.
        model: Name of weights such as axlstm_base.audioset, file, folder or hf://org/repo (default:
            axlstm_tiny).
        kind: "scene" for one embedding per clip, "timestamp" for one every 40 ms with its time.
        pooling: As for `axlstm embed`.
    """
    for library in ("torch.onnx", "onnxscript"):  # their warnings do not concern this model
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about its own exporter
    embedder = load_model(model, pooling=pooling)
    print(f"exported: {write_graph(embedder, out, kind)}")
