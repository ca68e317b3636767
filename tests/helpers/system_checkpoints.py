"""Checkpoints of random weights in the layouts that the authors of other systems publish.

The weights are lively: norms and biases are off 1 and 0 and attention is sharp, so that a mistake
anywhere shows in the embeddings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Draw:
    """Random tensors by the part that they play."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def values(self, *shape: int, scale: float = 0.3) -> Tensor:
        return torch.randn(shape, generator=self.generator) * scale

    def matrix(self, *shape: int, gain: float = 1.0) -> Tensor:
        fan_in = int(np.prod(shape[1:]))
        return self.values(*shape, scale=gain / fan_in**0.5)

    def layer(self, name: str, *shape: int, gain: float = 1.0) -> Tensors:
        return {
            f"{name}.weight": self.matrix(*shape, gain=gain),
            f"{name}.bias": self.values(shape[0]),
        }

    def norm(self, name: str, dim: int) -> Tensors:
        return {f"{name}.weight": 1 + self.values(dim), f"{name}.bias": self.values(dim)}

    def vit_blocks(self, dim: int, depth: int, prefix: str = "blocks.") -> Tensors:
        tensors: Tensors = {}
        for i in range(depth):
            block = f"{prefix}{i}."
            tensors |= self.norm(f"{block}norm1", dim)
            tensors |= self.layer(f"{block}attn.qkv", 3 * dim, dim, gain=1.5)
            tensors |= self.layer(f"{block}attn.proj", dim, dim)
            tensors |= self.norm(f"{block}norm2", dim)
            tensors |= self.layer(f"{block}mlp.fc1", 4 * dim, dim)
            tensors |= self.layer(f"{block}mlp.fc2", dim, 4 * dim)
        return tensors


def passt(
    folder: Path,
    dim: int = 64,
    depth: int = 2,
    classes: int = 527,
    grid: tuple[int, int] = (12, 99),
    seed: int = 0,
) -> Path:
    draw = Draw(seed)
    tensors = {
        "cls_token": draw.values(1, 1, dim),
        "dist_token": draw.values(1, 1, dim),
        "new_pos_embed": draw.values(1, 2, dim),
        "freq_new_pos_embed": draw.values(1, dim, grid[0], 1),
        "time_new_pos_embed": draw.values(1, dim, 1, grid[1]),
        **draw.layer("patch_embed.proj", dim, 1, 16, 16),
        **draw.vit_blocks(dim, depth),
        **draw.norm("norm", dim),
        **draw.norm("head.0", dim),
        **draw.layer("head.1", classes, dim),
        **draw.layer("head_dist", classes, dim),
    }
    return _save(tensors, folder / "passt-s-f128-p16-s10-ap.476-swa.pt")


def beats(
    folder: Path,
    dim: int = 64,
    depth: int = 2,
    patch_dim: int = 32,
    seed: int = 0,
    finetuned: bool = False,
    **cfg: Any,
) -> Path:
    draw, heads = Draw(seed), dim // 64
    cfg = {
        "encoder_layers": depth,
        "encoder_embed_dim": dim,
        "encoder_ffn_embed_dim": 4 * dim,
        "encoder_attention_heads": heads,
        "activation_fn": "gelu",
        "layer_wise_gradient_decay_ratio": 0.6,
        "layer_norm_first": False,
        "deep_norm": True,
        "dropout": 0.0,
        "conv_bias": False,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
        "input_patch_size": 16,
        "embed_dim": patch_dim,
        "finetuned_model": finetuned,
        **cfg,
    }
    tensors = {
        "patch_embedding.weight": draw.matrix(patch_dim, 1, 16, 16),
        **draw.norm("layer_norm", patch_dim),
        **(draw.layer("post_extract_proj", dim, patch_dim) if dim != patch_dim else {}),
        "encoder.pos_conv.0.bias": draw.values(dim),
        "encoder.pos_conv.0.weight_g": 1 + draw.values(1, 1, 128),
        "encoder.pos_conv.0.weight_v": draw.values(dim, dim // 16, 128),
        **draw.norm("encoder.layer_norm", dim),
    }
    table = draw.values(320, heads, scale=1.0)
    for i in range(depth):
        layer = f"encoder.layers.{i}."
        for name in ("q", "k", "v", "out"):
            tensors |= draw.layer(f"{layer}self_attn.{name}_proj", dim, dim, gain=1.5)
        tensors |= draw.layer(f"{layer}self_attn.grep_linear", 8, 64)
        tensors[f"{layer}self_attn.grep_a"] = 1 + draw.values(1, heads, 1, 1)
        tensors[f"{layer}self_attn.relative_attention_bias.weight"] = table
        tensors |= draw.norm(f"{layer}self_attn_layer_norm", dim)
        tensors |= draw.layer(f"{layer}fc1", 4 * dim, dim)
        tensors |= draw.layer(f"{layer}fc2", dim, 4 * dim)
        tensors |= draw.norm(f"{layer}final_layer_norm", dim)
    if finetuned:
        tensors |= draw.layer("predictor", 527, dim)
    path = folder / "BEATs_iter3.pt"
    torch.save({"cfg": cfg, "model": tensors}, path)
    return path


def audiomae(
    folder: Path, dim: int = 64, depth: int = 2, positions: int = 513, finetuned: bool = False
) -> Path:
    draw = Draw(0)
    tensors = {
        "cls_token": draw.values(1, 1, dim),
        "pos_embed": draw.values(1, positions, dim),
        **draw.layer("patch_embed.proj", dim, 1, 16, 16),
        **draw.vit_blocks(dim, depth),
    }
    if finetuned:
        tensors |= {**draw.norm("fc_norm", dim), **draw.layer("head", 527, dim)}
    else:
        tensors |= {**draw.norm("norm", dim), "mask_token": draw.values(1, 1, 32)}
        tensors |= draw.layer("decoder_embed", 32, dim)
    path = folder / ("finetuned.pth" if finetuned else "pretrained.pth")
    return _save_run(tensors, path)


def ssast(folder: Path, dim: int = 64, depth: int = 2, patch: tuple[int, int] = (16, 16)) -> Path:
    draw = Draw(0)
    positions = (128 // patch[0]) * (1024 // patch[1])
    tensors = {
        "cls_token": draw.values(1, 1, dim),
        "dist_token": draw.values(1, 1, dim),
        "pos_embed": draw.values(1, 2 + positions, dim),
        **draw.layer("patch_embed.proj", dim, 1, *patch),
        **draw.vit_blocks(dim, depth),
        **draw.norm("norm", dim),
        **draw.layer("head", 1000, dim),
        **draw.layer("head_dist", 1000, dim),
    }
    tensors = {f"module.v.{name}": value for name, value in tensors.items()}
    tensors |= {
        "module.mask_embed": draw.values(1, 1, dim),
        "module.p_input_fdim": torch.tensor(128),
        "module.p_input_tdim": torch.tensor(1024),
        **draw.layer("module.cpredlayer.0", dim, dim),
        **draw.layer("module.gpredlayer.0", dim, dim),
    }
    kind = "Patch" if patch[0] == 16 else "Frame"
    return _save(tensors, folder / f"SSAST-Base-{kind}-400.pth")


def ssam(folder: Path, dim: int = 64, depth: int = 2, states: int = 24) -> Path:
    """A run folder of three checkpoints, of which the one with the highest number is the model."""
    draw, inner, rank = Draw(0), 3 * dim, -(-dim // 16)
    tensors = {
        "cls_token": draw.values(1, 1, dim),
        "mask_token": draw.values(1, 1, dim),
        "pos_embed": draw.values(1, 251, dim),
        **draw.layer("patch_embed.proj", dim, 1, 4, 16),
        **draw.norm("encoder_norm", dim),
        **draw.layer("pred.0", dim, dim),
        **draw.layer("pred.2", 64, dim),
    }
    for i in range(depth):
        mixer = f"blocks.{i}.mixer."
        tensors |= draw.norm(f"blocks.{i}.norm", dim)
        tensors[f"{mixer}in_proj.weight"] = draw.matrix(2 * inner, dim)
        tensors |= draw.layer(f"{mixer}conv1d", inner, 1, 4)
        tensors[f"{mixer}x_proj.weight"] = draw.matrix(rank + 2 * states, inner)
        tensors |= draw.layer(f"{mixer}dt_proj", inner, rank)
        tensors[f"{mixer}A_log"] = torch.arange(1, states + 1.0).log() + draw.values(inner, states)
        tensors[f"{mixer}D"] = 1 + draw.values(inner)
        tensors[f"{mixer}out_proj.weight"] = draw.matrix(dim, inner)
    run = folder / "ssam_base_200_16x4_4x256_fp16_r1"
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    for epoch in (9, 99):
        _save_run({"stale": torch.zeros(1)}, run / "checkpoints" / f"checkpoint-{epoch}.pth")
    _save_run(tensors, run / "checkpoints" / "checkpoint-100.pth")
    return run


def mwmae(
    folder: Path, dim: int = 64, depth: int = 2, class_token: bool = False, orbax: bool = False
) -> Path:
    """A run folder; `checkpoint_20` is the newest."""
    draw = Draw(0)

    def dense(fan_in: int, out: int, gain: float = 1.0) -> dict[str, Any]:
        return {
            "kernel": draw.values(fan_in, out, scale=gain / fan_in**0.5),
            "bias": draw.values(out),
        }

    def norm(width: int) -> dict[str, Any]:
        return {"scale": 1 + draw.values(width), "bias": draw.values(width)}

    params: dict[str, Any] = {
        "patch_embed": {
            "proj": {"kernel": draw.values(4, 16, 1, dim, scale=1 / 8), "bias": draw.values(dim)}
        },
        "pos_embed": draw.values(1, 250 + class_token, dim),
        "encoder_norm": norm(dim),
        "mask_token": draw.values(1, 1, dim).bfloat16(),
        "decoder_embed": dense(dim, 32),
    }
    if class_token:
        params["cls_token"] = draw.values(1, 1, dim).bfloat16()
    for i in range(depth):
        params[f"encoder_block_{i:02d}"] = {
            "LayerNorm_0": norm(dim),
            "Attention_0": {"Dense_0": dense(dim, 3 * dim, gain=1.5), "Dense_1": dense(dim, dim)},
            "LayerNorm_1": norm(dim),
            "Mlp_0": {"Dense_0": dense(dim, 4 * dim), "Dense_1": dense(4 * dim, dim)},
        }
    run = folder / "mwmae_base_200_4x16_8x128_default_bfloat16_run1"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}", "utf-8")
    state = {"step": 20, "opt_state": {"0": {"mu": params}}, "params": params, "buffers": {}}
    for step, content in ((3, {"params": {}}), (20, state)):
        path = run / f"checkpoint_{step}"
        if orbax:
            path.mkdir()
            path = path / "checkpoint"
        path.write_bytes(msgpack.packb(content, default=flax_array))
    return run


WRITERS: dict[str, Callable[[Path], Path]] = {
    "passt": passt,
    "beats": beats,
    "audiomae": audiomae,
    "ssast": ssast,
    "ssam": ssam,
    "mwmae": mwmae,
}


def flax_array(value: Tensor) -> msgpack.ExtType:
    name = str(value.dtype).removeprefix("torch.")
    raw = value.contiguous().view(torch.uint8).numpy().tobytes()
    return msgpack.ExtType(1, msgpack.packb([list(value.shape), name, raw]))


class ConfigDict:
    """Stands for ml_collections' class of that name, which a run's arguments hold."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields


def _save_run(tensors: Tensors, path: Path) -> Path:
    """A training run's checkpoint, with arguments that a plain safe load refuses."""
    arguments = argparse.Namespace(
        lr=1e-3,
        output_dir=Path("runs"),
        dtype=np.float32(1),
        config=ConfigDict(model="base", kind=str),
    )
    content = {"model": tensors, "optimizer": {"state": {}}, "epoch": 1, "scaler": None}
    torch.save({**content, "args": arguments}, path)
    return path


def _save(tensors: Tensors, path: Path) -> Path:
    torch.save(tensors, path)
    return path
