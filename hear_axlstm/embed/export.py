"""Export of an embedding model as one graph, with torch.export or as ONNX.

The graph computes the same as `Embedder` with operations that other runtimes have: the spectrum as
products with cosines and sines, the cell in its plain form, the last window always padded.

Shapes: B clips, n samples, T mel frames, F mel bins, W windows of 2 s, J time steps, D' embedding
size.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config

from hear_axlstm.audio.mel import LOG_FLOOR, LogMel, standardize
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.inputs import Kind
from hear_axlstm.embed.pooling import pool
from hear_axlstm.files import replacing
from hear_axlstm.models import mlstm
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops import torch_impl

log = logging.getLogger(__name__)

SUFFIXES = (".onnx", ".pt2")
OPSET = 20
EXAMPLE_SAMPLES = 40_000  # length of the traced clips
DEFER, OBLIVIOUS = "prefer_deferred_runtime_asserts_over_guards", "backed_size_oblivious"
MISSING = "ONNX needs onnx and onnxscript: run pip install '.[export]' in the clone"


class ExportableEmbedder(nn.Module):
    """An embedder as plain operations, on a CPU in float32.

    Args:
        embedder: model whose weights are copied.
        kind: "scene" for ``[B, D']``; "timestamp" for ``[B, J, D']`` and the centers in ms
            ``[B, J]``.
    """

    def __init__(self, embedder: Embedder, kind: Kind) -> None:
        super().__init__()
        self.config, self.kind = embedder.config, kind
        self.mel = ExportableLogMel(copy.deepcopy(embedder.mel).cpu())
        self.encoder = copy.deepcopy(embedder.encoder).cpu().eval()
        for block in self.encoder.modules():
            if isinstance(block, MLSTMBlock):
                block.cell = exportable_cell

    def forward(self, audio: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Embed float32 ``[B, n]`` in -1..1 at the model's sample rate, n at least n_fft."""
        width, patch = self.config.window_frames, self.config.patch[0]
        log_mel_BTF = standardize(self.mel(audio))
        frames = log_mel_BTF.shape[1]
        windows = (frames + width - 1) // width
        filled = nn.functional.pad(log_mel_BTF, (0, 0, 0, windows * width - frames))
        windows_WTF = filled.reshape(audio.shape[0] * windows, width, filled.shape[2])
        # A copy, because reshaping a slice branches on whether there is more than one window
        tokens = self.encoder(windows_WTF)[:, 1:].clone(memory_format=torch.contiguous_format)
        if self.config.layout == "release":
            tokens = tokens.unflatten(1, self.config.grid[::-1]).transpose(1, 2).contiguous()
        steps_BJD = tokens.view(
            audio.shape[0], windows * self.config.grid[0], self.config.embedding_size
        )
        if self.kind == "scene":
            return pool(steps_BJD[:, : (frames + patch - 1) // patch], self.config.pooling)
        # as in Embedder.forward: up to the last step whose center is within the clip
        samples, hop, middle = audio.shape[1], self.config.mel.hop_length, (patch - 1) / 2
        count = torch.sym_max(1, (samples - math.ceil(middle * hop)) // (patch * hop) + 1)
        index = torch.arange(count, device=audio.device, dtype=torch.float32)
        centers = (index * patch + middle) * hop
        only = torch.full_like(centers, 1) * samples / 2  # the middle of a clip with one step
        ms = torch.where(centers > samples, only, centers) * (1000.0 / self.config.mel.sample_rate)
        return steps_BJD[:, :count], ms.expand(audio.shape[0], -1)


class ExportableLogMel(nn.Module):
    """`LogMel` without a Fourier transform: windowed cosines and sines, as a convolution."""

    waves: Tensor
    filterbank: Tensor

    def __init__(self, mel: LogMel) -> None:
        super().__init__()
        self.config = mel.config
        size = mel.config.n_fft
        index = torch.arange(size, device="cpu")
        turns = torch.outer(index[: size // 2 + 1], index) % size
        angles = turns.double() * (2 * math.pi / size)
        waves = torch.cat([angles.cos(), angles.sin()]) * mel.window.double()
        self.register_buffer("waves", waves.float()[:, None])
        self.register_buffer("filterbank", mel.filterbank.T.contiguous()[..., None])

    def forward(self, waveform_Bn: Tensor) -> Tensor:
        """Compute the log-mel: ``[B, n]`` -> ``[B, T, F]``."""
        edge, hop = self.config.n_fft // 2, self.config.hop_length
        padded = nn.functional.pad(waveform_Bn[:, None], (edge, edge), mode="reflect")
        cosines, sines = nn.functional.conv1d(padded, self.waves, stride=hop).chunk(2, dim=1)
        power_BfT = cosines.square() + sines.square()
        return torch.log(nn.functional.conv1d(power_BfT, self.filterbank) + LOG_FLOOR).mT


def exportable_cell(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """Plain quadratic form of `mlstm.cell`: slow, but without branches or loops."""
    total_f = log_f.double().cumsum(dim=1)
    a = log_i.double() - total_f
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    seen_BHTS = a.transpose(1, 2)[:, :, None].masked_fill(future, -torch.inf)
    running_max_BHT1 = seen_BHTS.amax(-1, keepdim=True)
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    weights_BHTS = torch.exp(seen_BHTS - running_max_BHT1).to(q.dtype)
    scores_BHTS = torch.bmm(q, k.mT).view_as(weights_BHTS) * weights_BHTS
    u_BHSK = torch.bmm(scores_BHTS.flatten(0, 1), v).unflatten(0, scores_BHTS.shape[:2])
    floor = mlstm.normalizer_floor(total_f + running_max_BHT1[..., 0].transpose(1, 2))
    n_BSH = scores_BHTS.float().sum(-1).transpose(1, 2)
    return torch_impl.normalize(u_BHSK.transpose(1, 2), n_BSH, floor, q.shape[-1])


def export(embedder: Embedder, path: Path, kind: Kind = "scene") -> Path:
    """Write an embedder as an ONNX file or a torch.export program, for any batch and length.

    The input is called ``audio``; the outputs ``scene``, or ``steps`` and ``ms``.

    Args:
        embedder: model from `load_model`.
        path: file to write; its extension, .onnx or .pt2, selects the format.
        kind: kind of embedding.

    Returns:
        `path`.

    Raises:
        ValueError: for another extension or kind, or if `path` is a folder or its folder does not
            exist.
        OSError: if `path` can't be written.
        ModuleNotFoundError: for ONNX without the extra `export`.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the output must end in {' or '.join(SUFFIXES)}, got {path}")
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: use one of {', '.join(get_args(Kind))}")
    if path.suffix == ".onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        raise ModuleNotFoundError(MISSING)
    if not path.parent.is_dir():
        raise ValueError(f"directory {path.parent} does not exist: create it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory: name a file")
    log.info("exporting; this takes a minute or two")
    # An unwritable place fails here, before the work.
    with replacing(path) as partial, partial.open("wb") as file:
        program = _trace(ExportableEmbedder(embedder, kind).eval())
        if path.suffix == ".pt2":
            torch.export.save(program, file)
        else:
            _write_onnx(program, partial, ["scene"] if kind == "scene" else ["steps", "ms"])
    return path


def _write_onnx(program: torch.export.ExportedProgram, path: Path, outputs: list[str]) -> None:
    torch.onnx.export(
        program,
        (),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=["audio"],
        output_names=outputs,
        external_data=False,
        verbose=False,
    )


@torch.no_grad()
def _trace(model: nn.Module) -> torch.export.ExportedProgram:
    example = torch.zeros(2, EXAMPLE_SAMPLES, dtype=torch.float32, device="cpu")
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # Older versions of PyTorch have neither of the two settings
    accepted = inspect.signature(torch.export.export).parameters
    options: dict[str, Any] = {DEFER: True} if DEFER in accepted else {}
    # Otherwise a size that is not 1 in the example would be assumed never to be 1
    oblivious = _config.patch(OBLIVIOUS, True) if hasattr(_config, OBLIVIOUS) else nullcontext()  # type: ignore[attr-defined]
    with oblivious:
        return torch.export.export(
            model, (example,), dynamic_shapes={"audio": any_size}, strict=False, **options
        )
