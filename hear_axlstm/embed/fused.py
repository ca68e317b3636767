"""Encoding on a CPU without gradients: fused weights, and a few windows at a time on each core.

Shapes: W windows, N patches, S = N + 1 tokens, D model width, E inner width, H heads, K head size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.models import layers, mlstm
from hear_axlstm.models.encoder import Encoder, block_type
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops import cpu, torch_impl
from hear_axlstm.ops.backends import has_mixer, is_compiled, packed
from hear_axlstm.ops.contract import CONV_WIDTH, NORM_EPS, CellGates, MixerWeights
from hear_axlstm.ops.cores import on_each_core
from hear_axlstm.ops.cpu import Workspace
from hear_axlstm.ops.fuse import fuse_weights

CHANNELS_AT_ONCE = 9216  # E times windows: with fewer, weights are read from memory more often
Block = Callable[[Tensor, Workspace], Tensor]  # tokens [B, S, D] to tokens


class FusedEncoder:
    """Encoder with frozen weights, fused for fast inference on a CPU.

    Args:
        encoder: on the CPU; later changes to it do not affect the fused weights.
        dtype: type of the matrix products inside the blocks, float32 or bfloat16.

    Raises:
        ValueError: for an encoder with hooks, or mLSTM blocks with replaced submodules.
    """

    @torch.no_grad()
    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        self._modules = tuple(encoder.named_modules())
        self.check_hooks()
        self.patches, self.norm = copy.deepcopy((encoder.patches, encoder.norm))
        self.cls_token = encoder.cls_token.detach().clone()
        self.blocks = [_fuse_block(block, n, dtype) for n, block in enumerate(encoder.blocks)]
        self.dtype = dtype
        inner = block_type(encoder.config).inner_dim(encoder.config)
        self._at_once = max(1, CHANNELS_AT_ONCE // inner)

    def check_hooks(self) -> None:
        """Raise ValueError if a module of the encoder has hooks: they would not be called."""
        for name, module in self._modules:
            if module._forward_hooks or module._forward_pre_hooks:
                raise _bypassed(f"{name or 'the encoder'} has hooks")

    @torch.no_grad()
    def __call__(self, mel_WTF: Tensor) -> Tensor:
        """Embed the patches of standardized log-mel ``[W, T, F]``, float32 ``[W, N, D]``.

        The result is that of `Encoder.forward` without the class token.

        Raises:
            ValueError: if hooks were added to the encoder.
        """
        self.check_hooks()

        @torch.no_grad()  # applies to the current thread only
        def encode(patches_BND: Tensor) -> Tensor:
            cls = self.cls_token.expand(len(patches_BND), 1, -1)
            tokens, workspace = torch.cat([cls, patches_BND], dim=1), Workspace()
            for block in self.blocks:
                tokens = block(tokens, workspace)
            return self.norm(tokens[:, 1:])

        parts = -(-len(mel_WTF) // self._at_once)
        parts += -parts % torch.get_num_threads()  # so that no core is idle at the end
        parts = max(1, min(parts, len(mel_WTF)))
        return torch.cat(on_each_core(encode, self.patches(mel_WTF).tensor_split(parts)))


class StreamState:
    """State of a causal block after earlier tokens, for windows processed in parts."""

    def __init__(self) -> None:
        self._context: Tensor | None = None  # the last tokens, for the convolution
        self._state: mlstm.State | None = None

    def convolve(self, x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve like `torch_impl.convolve`, with the preceding tokens as context."""
        self._context, x_BSE, seen = _extend(self._context, x_BSE)
        return torch_impl.convolve(x_BSE, weight, bias)[:, seen:]

    def cell(self, q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
        """Compute `mlstm.cell` from the state after the preceding tokens."""
        h, self._state = mlstm.chunkwise(q, k, v, log_i, log_f, self._state)
        return h

    def mixer(
        self,
        xz_BSE: Tensor,
        weights: MixerWeights,
        heads: int,
        log_gates: Callable[[Tensor], tuple[Tensor, Tensor]],
        workspace: Workspace,
    ) -> Tensor:
        """Compute `cpu.mixer` from the state after the preceding tokens."""
        if self._state is None:
            shape = 1, 1, heads, xz_BSE.shape[-1] // 2 // heads
            self._state = mlstm.empty_state(xz_BSE.new_empty(shape))
        state, after = self._state, []

        def gates(raw_BSG: Tensor) -> CellGates:
            found, m = mlstm.stabilize_after(*log_gates(raw_BSG), state.m)
            after.append(m)
            return found

        self._context, xz_BSE, earlier = _extend(self._context, xz_BSE)
        out = cpu.continued_mixer(xz_BSE, weights, heads, gates, earlier, state, workspace)
        self._state = state._replace(m=after[0])
        return out


def _extend(context: Tensor | None, x_BSE: Tensor) -> tuple[Tensor, Tensor, int]:
    """Put the preceding tokens before others.

    Returns:
        Context of the next tokens, tokens with the context, and the number of tokens in it.
    """
    seen = 0 if context is None else context.shape[1]
    if context is not None:
        x_BSE = torch.cat([context, x_BSE], dim=1)
    return x_BSE[:, 1 - CONV_WIDTH :].clone(), x_BSE, seen


class FusedMLSTM:
    """An mLSTM block with fused weights: the same result with fewer and cheaper operations.

    Args:
        block: block built from `hear_axlstm.models.layers`.
        dtype: type of the large matrix products.
    """

    def __init__(self, block: MLSTMBlock, dtype: torch.dtype) -> None:
        self.norm, self.reverse = 1.0 + block.norm.weight, block.reverse
        self.heads, self.head_size = block.heads, block.skip.numel() // block.heads
        self.input_gate = block.input_gate
        up, self.weights, down = fuse_weights(block.tensors(), block.heads, dtype)
        self.up, self.down = packed(up), packed(down)

    def __call__(
        self, tokens_BSD: Tensor, workspace: Workspace, state: StreamState | None = None
    ) -> Tensor:
        """Map float32 tokens ``[B, S, D]`` to float32 tokens ``[B, S, D]``.

        Args:
            tokens_BSD: tokens of whole windows, or those that follow the tokens in `state`.
            workspace: scratch memory.
            state: state of a window that is processed in parts; updated in place.
        """
        source = tokens_BSD.flip(1) if self.reverse else tokens_BSD
        normed = nnf.layer_norm(source, source.shape[-1:], self.norm, eps=NORM_EPS)
        xz = self.up(normed, workspace, "xz")
        if state is not None and is_compiled(xz):
            mixed = state.mixer(xz, self.weights, self.heads, self._log_gates, workspace)
        elif state is None and has_mixer(xz, self.head_size):
            mixed = cpu.mixer(xz, self.weights, self.heads, self._gates, workspace)
        else:
            mixed = self._by_torch(xz, state)
        mixed = self.down(mixed, workspace, "down").float()
        return tokens_BSD + (mixed.flip(1) if self.reverse else mixed)

    def _gates(self, raw_BSG: Tensor) -> mlstm.CellGates:
        return mlstm.stabilize(*self._log_gates(raw_BSG))

    def _log_gates(self, raw_BSG: Tensor) -> tuple[Tensor, Tensor]:
        raw_i, raw_f = raw_BSG.chunk(2, dim=-1)
        return mlstm.log_gates(raw_i, raw_f, self.input_gate)

    def _by_torch(self, xz_BSE: Tensor, state: StreamState | None) -> Tensor:
        inner = state.cell if state else mlstm.cell

        def cell(q: Tensor, k: Tensor, v: Tensor, raw_BSG: Tensor) -> Tensor:
            return inner(q, k, v, *self._log_gates(raw_BSG))

        convolve = state.convolve if state else torch_impl.convolve
        return torch_impl.mixer(xz_BSE, self.weights, self.heads, cell, convolve)


def _fuse_block(block: nn.Module, index: int, dtype: torch.dtype) -> Block:
    if type(block) is MLSTMBlock:
        for name, part in block.named_children():
            if type(part).__module__ != layers.__name__:
                raise _bypassed(f"blocks.{index}.{name} was replaced ({type(part).__name__})")
        return FusedMLSTM(block, dtype)
    lower = copy.deepcopy(block).to(dtype)
    return lambda tokens_BSD, _: lower(tokens_BSD.to(dtype)).float()


def _bypassed(what: str) -> ValueError:
    return ValueError(
        f"{what}, which fused weights would bypass: undo that, or use the model unfused "
        "(model.unfuse())"
    )
