"""The reference release in plain words: its checkpoints, and its inference from one.

A transcription of what it computes, operation by operation, on its own names of tensors; nothing of
the package but the log-mel front end, which other tests hold against torchaudio.

Shapes: B clips, T mel frames, S tokens, N patches of a window, D model width, E inner width.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.audio.mel import LogMel

WINDOW, MELS, HEADS, HEAD_SIZE = 200, 80, 4, 64
State = dict[str, Tensor]


def positions(patch: tuple[int, int], dim: int) -> Tensor:
    """``[1, 1 + N, D]``: zeros for the class token, then frequency and time, sines and cosines."""
    rates = [10_000 ** (-i / (dim // 4)) for i in range(dim // 4)]
    rows = [[0.0] * dim]
    for time in range(WINDOW // patch[0]):
        for frequency in range(MELS // patch[1]):
            rows.append([f(at * r) for at in (frequency, time) for f in (math.sin, math.cos)
                         for r in rates])  # fmt: skip
    return torch.tensor([rows])


def random_state(
    dim: int, depth: int, patch: tuple[int, int], expansion: int | None, mlp_ratio: int = 4
) -> State:
    """A state dict with values that make every part matter; without expansion, of SSAST."""
    rng = torch.Generator().manual_seed(dim + depth)

    def normal(*shape: int, std: float = 0.3) -> Tensor:
        return torch.randn(shape, generator=rng) * std

    size = patch[0] * patch[1]
    state = {name: normal(1, 1, dim) for name in ("cls_token", "mask_token")}
    state["pos_embed"] = positions(patch, dim)
    shapes = {"patch_embed.proj": (dim, 1, *patch), "pred.0": (dim, dim), "pred.2": (size, dim)}
    for n in range(depth):
        at = f"blocks.{n}."
        if expansion is None:
            hidden = mlp_ratio * dim
            shapes |= {f"{at}attn.qkv_layer": (3 * dim, dim), f"{at}attn.proj_layer": (dim, dim)}
            shapes |= {f"{at}mlp.layer1": (hidden, dim), f"{at}mlp.layer2": (dim, hidden)}
            for name in ("norm1", "norm2"):
                state |= {f"{at}{name}.weight": 1 + normal(dim), f"{at}{name}.bias": normal(dim)}
            continue
        inner = expansion * dim
        layer = f"{at}layer."
        state[f"{at}norm.weight"] = normal(dim)
        state[f"{layer}learnable_skip"] = 1 + normal(inner)
        state[f"{layer}proj_up.weight"] = normal(2 * inner, dim, std=dim**-0.5)
        state[f"{layer}proj_down.weight"] = normal(dim, inner, std=inner**-0.5)
        state |= {f"{layer}{x}_proj.weight": normal(inner // 4, 4, 4) for x in "qkv"}
        state[f"{layer}mlstm_cell.outnorm.weight"] = normal(inner)
        shapes[f"{layer}conv1d.conv"] = (inner, 1, 4)
        for gate in ("igate", "fgate"):
            shapes[f"{layer}mlstm_cell.{gate}"] = (HEADS, 3 * inner)
    for name, shape in shapes.items():
        small = 0.3 if "gate" in name else 1.0  # as in trained ones
        state[f"{name}.weight"] = normal(*shape, std=small * math.prod(shape[1:]) ** -0.5)
        state[f"{name}.bias"] = normal(shape[0]) + (4.0 if "fgate" in name else 0.0)
    state |= {"encoder_norm.weight": 1 + normal(dim), "encoder_norm.bias": normal(dim)}
    return state


def reference_rows(state: State, audio: Tensor, flip: bool) -> Tensor:
    """All rows of clips ``[B, n]`` as the release lays them out, the last one included.

    Computed in float64, so that the rounding of float32 is that of the package alone.
    """
    state = {name: tensor.double() for name, tensor in state.items()}
    mel = LogMel()(audio).double()
    std, mean = mel.std(dim=(1, 2), keepdim=True), mel.mean(dim=(1, 2), keepdim=True)
    mel = (mel - mean) / (std + 1e-8)
    frames = mel.shape[1]
    mel = nnf.pad(mel, (0, 0, 0, WINDOW - frames % WINDOW))
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patch = kernel.shape[2:]
    rows = []
    for window in mel.split(WINDOW, dim=1):
        tokens = nnf.conv2d(window[:, None], kernel, bias, stride=tuple(patch)).flatten(2).mT
        tokens = tokens + state["pos_embed"][:, 1:]
        cls = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(audio), -1, -1)
        tokens = torch.cat([cls, tokens], dim=1)
        for n in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
            at = f"blocks.{n}."
            block = {k.removeprefix(at): t for k, t in state.items() if k.startswith(at)}
            if "norm1.weight" in block:
                tokens = _transformer(block, tokens)
            elif flip and n % 2 == 1:
                tokens = tokens + _mlstm(block, tokens.flip(1)).flip(1)
            else:
                tokens = tokens + _mlstm(block, tokens)
        weight, bias_ = state["encoder_norm.weight"], state["encoder_norm.bias"]
        tokens = nnf.layer_norm(tokens, tokens.shape[-1:], weight, bias_, eps=1e-6)[:, 1:]
        bands = MELS // patch[1]
        # The tokens are time-major, and read as if they were frequency-major.
        rows.append(tokens.unflatten(1, (bands, -1)).permute(0, 2, 1, 3).flatten(2))
    return torch.cat(rows, dim=1)[:, : math.ceil(frames / patch[0])].float()


def _mlstm(block: State, tokens: Tensor) -> Tensor:
    normed = nnf.layer_norm(tokens, tokens.shape[-1:], 1 + block["norm.weight"], eps=1e-5)
    block = {k.removeprefix("layer."): t for k, t in block.items()}
    x, z = (normed @ block["proj_up.weight"].T).chunk(2, dim=-1)
    conv, bias = block["conv1d.conv.weight"], block["conv1d.conv.bias"]
    length, inner = x.shape[1:]
    c = nnf.silu(nnf.conv1d(x.mT, conv, bias, padding=3, groups=inner)[..., :length].mT)
    q, k, v = (
        torch.einsum("bsgi,goi->bsgo", source.unflatten(-1, (-1, 4)), block[f"{name}_proj.weight"])
        .flatten(2)
        for name, source in (("q", c), ("k", c), ("v", x))
    )  # fmt: skip
    qkv = torch.cat([q, k, v], dim=-1)
    gates = [
        (qkv @ block[f"mlstm_cell.{g}.weight"].T + block[f"mlstm_cell.{g}.bias"]).mT
        for g in ("igate", "fgate")
    ]  # [B, H, S]
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    total = nnf.logsigmoid(gates[1]).cumsum(-1)
    log_d = total[..., :, None] - total[..., None, :] + gates[0][..., None, :]
    log_d = log_d.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    m = log_d.amax(-1, keepdim=True)
    scores = q @ k.mT / math.sqrt(q.shape[-1]) * (log_d - m).exp()
    h = scores @ v / (torch.maximum(scores.sum(-1, keepdim=True).abs(), (-m).exp()) + 1e-6)
    h = nnf.layer_norm(h, h.shape[-1:], eps=1e-5).transpose(1, 2).flatten(2)
    h = h * (1 + block["mlstm_cell.outnorm.weight"]) + block["learnable_skip"] * c
    return (h * nnf.silu(z)) @ block["proj_down.weight"].T


def _transformer(block: State, tokens: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        return x @ block[f"{name}.weight"].T + block[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = block[f"{name}.weight"], block[f"{name}.bias"]
        return nnf.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)

    heads = tokens.shape[-1] // HEAD_SIZE
    qkv = linear("attn.qkv_layer", norm("norm1", tokens)).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv)
    attended = (q @ k.mT / math.sqrt(HEAD_SIZE)).softmax(-1) @ v
    tokens = tokens + linear("attn.proj_layer", attended.transpose(1, 2).flatten(2))
    return tokens + linear("mlp.layer2", nnf.gelu(linear("mlp.layer1", norm("norm2", tokens))))


class ConfigDict:
    """Pickles like the class of ml_collections: fields in a state dict."""

    def __init__(self, **values: Any) -> None:
        fields = {k: ConfigDict(**v) if isinstance(v, dict) else v for k, v in values.items()}
        self.__dict__ |= {"_fields": fields, "_locked": True, "_type_safe": True}


ConfigDict.__module__ = "ml_collections.config_dict.config_dict"


def save_checkpoint(path: Path, state: State, epoch: int, **more: Any) -> Path:
    """Write a checkpoint as the release's training does; `more` is put beside its contents."""
    moments = {n: {"step": torch.tensor(3.0), "exp_avg": t.clone()} for n, t in
               enumerate(state.values())}  # fmt: skip
    config = ConfigDict(model={"name": "mae", "shape": (200, 80)}, opt={"lr": 1.5e-4})
    args = argparse.Namespace(config=config, output_dir=Path("runs"), precision="float16")
    contents = {
        "model": state,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "epoch": epoch,
        "scaler": {"scale": 65536.0},
        "args": args,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    module = ModuleType(ConfigDict.__module__)
    module.ConfigDict = ConfigDict  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:  # gone again when the checkpoint is read
        for name in ("ml_collections", "ml_collections.config_dict", module.__name__):
            patch.setitem(sys.modules, name, module)
        torch.save(contents, path)
    return path
