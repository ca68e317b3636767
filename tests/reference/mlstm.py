"""The model as the release computes it: plain, one matrix after the other, float32.

What the package is measured against. It shares the package's parameters and front end, so that both
give the same embeddings; the way of computing is the straightforward one: every S x S matrix of
the cell materialized, convolution by conv1d, block-diagonal maps by einsum, gates on the
concatenation of q, k and v, one window of 2 s after the other, products by torch, gradients by
autograd.

Shapes: B windows, S tokens, E inner width, H heads, K head size.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.audio.mel import standardize
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.models import mlstm
from hear_axlstm.models.layers import Linear
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops.contract import EPS, NORM_EPS

M = TypeVar("M", bound=nn.Module)


def plain_parallel(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The cell with every S x S matrix materialized, as `hear_axlstm.models.mlstm.cell`."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, H, S, K]
    log_i, log_f = (t.transpose(1, 2)[..., None] for t in (log_i, log_f))  # [B, H, S, 1]
    total = log_f.cumsum(-2)
    tokens = total.shape[-2]
    rows = total.expand(-1, -1, tokens, tokens)
    log_d = rows - rows.mT + log_i.mT
    past = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    log_d = torch.where(past, log_d, -torch.inf)
    m = log_d.amax(-1, keepdim=True)
    scores = (q @ (k / k.shape[-1] ** 0.5).mT) * torch.exp(log_d - m)
    normalizer = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-m)) + EPS
    return ((scores / normalizer) @ v).transpose(1, 2)


class PlainBlock(MLSTMBlock):
    """The mLSTM block, written down operation by operation."""

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        y = self.norm(tokens_BSD)
        y = self._mixed(y.flip(1)).flip(1) if self.reverse else self._mixed(y)
        return tokens_BSD + y

    def _mixed(self, tokens_BSD: Tensor) -> Tensor:
        x, z = self.proj_up(tokens_BSD).chunk(2, dim=-1)
        tokens, width = x.shape[1:]
        kernel = self.conv.weight.mT[:, None, :]
        c = nnf.conv1d(x.mT, kernel, self.conv.bias, padding=kernel.shape[-1] - 1, groups=width)
        c = nnf.silu(c[..., :tokens].mT)
        q, k, v = (
            _map(layer.weight, t)
            for layer, t in ((self.q_proj, c), (self.k_proj, c), (self.v_proj, x))
        )
        qkv = torch.cat([q, k, v], dim=-1)
        raw_i, raw_f = (
            nnf.linear(qkv, gate.weight, gate.bias) for gate in (self.igate, self.fgate)
        )
        log_i, log_f = mlstm.log_gates(raw_i, raw_f, self.input_gate)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        h = plain_parallel(q, k, v, log_i, log_f)
        scale = 1.0 + self.head_norm.weight
        normed = nnf.group_norm(h.flatten(2).flatten(0, 1), self.heads, scale, eps=NORM_EPS)
        return self.proj_down((normed.view_as(c) + self.skip * c) * nnf.silu(z))


def _map(weight: Tensor, x: Tensor) -> Tensor:
    blocks = x.unflatten(-1, (len(weight), -1))
    return torch.einsum("bsni,noi->bsno", blocks, weight).flatten(-2)


def plain(model: M) -> M:
    """A copy of a model, trainable like it, that computes in the plain way."""
    twin = copy.deepcopy(model)
    for part in twin.modules():
        if isinstance(part, MLSTMBlock):
            part.__class__ = PlainBlock
        elif type(part) is Linear:
            part.__class__ = nn.Linear  # type: ignore[assignment]
    return twin


def plain_timestamps(twin: Embedder, audio: Tensor) -> Tensor:
    """All steps of clips, ``[B, J, D']``: windows of 2 s, padded, one after the other."""
    width = twin.config.window_frames
    mel = standardize(twin.mel(audio))
    frames = mel.shape[1]
    mel = nnf.pad(mel, (0, 0, 0, -frames % width))
    tokens = torch.cat([twin.encoder(window)[:, 1:] for window in mel.split(width, dim=1)], dim=1)
    steps = tokens.unflatten(1, (-1, twin.config.grid[1])).flatten(2)
    return steps[:, : -(-frames // twin.config.patch[0])]
