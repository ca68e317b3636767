"""Encoding on a CPU without gradients: fused weights, and a few windows at a time on each core.

Shapes: W windows, N patches, S = N + 1 tokens, D model width, E inner width, H heads, K head size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from hear_axlstm.models import layers, mlstm
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.ops import torch_impl
from hear_axlstm.ops.backends import compiled_block, mixer_for, packed, uses_library
from hear_axlstm.ops.contract import CONV_WIDTH, NORM_EPS
from hear_axlstm.ops.cores import on_each_core, on_one_core, thread_count
from hear_axlstm.ops.fuse import fuse_weights
from hear_axlstm.ops.packed_linear import PackedLinear
from hear_axlstm.ops.tracing import check_storage
from hear_axlstm.ops.workspace import Workspace

WINDOWS_AT_ONCE = 2  # one would double the calls from Python; more do not fit in the cache
Block = Callable[[Tensor, Workspace], Tensor]  # tokens [B, S, D] to tokens, perhaps in place
Pack = Callable[[Tensor], PackedLinear]


class FusedEncoder:
    """Encoder with frozen weights, fused for fast inference on a CPU.

    Args:
        encoder: later changes to it do not affect the fused weights.
        dtype: data type of the matrix products inside the blocks, float32 or bfloat16.
        pack: packs the weights of the projections.

    Raises:
        ValueError: for an encoder with hooks, or mLSTM blocks with replaced submodules.
    """

    @torch.no_grad()
    def __init__(self, encoder: Encoder, dtype: torch.dtype, pack: Pack = packed) -> None:
        self._modules = tuple(encoder.named_modules())
        self.check_hooks()
        self.patches, self.norm = copy.deepcopy((encoder.patches, encoder.norm))
        self.cls_token = encoder.cls_token.detach().clone()
        self.blocks = [_fuse_block(block, n, dtype, pack) for n, block in enumerate(encoder.blocks)]
        self.dtype = dtype
        self.can_share = all(getattr(block, "compiled", None) for block in self.blocks)

    def check_hooks(self) -> None:
        """Raise ValueError if a module of the encoder has hooks: they would not be called."""
        for name, module in self._modules:
            if module._forward_hooks or module._forward_pre_hooks:
                raise _bypassed(f"{name or 'the encoder'} has hooks")

    @torch.no_grad()
    def __call__(self, mel_WTF: Tensor) -> Tensor:
        """Embed the patches of standardized log-mel ``[W, T, F]``, float32 ``[W, N, D]``.

        The result is that of `Encoder.forward` without the class token. Each core encodes the same
        number of windows; the remaining windows are encoded by all cores together.

        Raises:
            ValueError: if hooks were added to the encoder.
            TypeError: for a tensor of `torch.func`, whose transforms are local to a thread.
        """
        self.check_hooks()
        check_storage(mel_WTF, "log-mel")
        patches_WND, cores = self.patches(mel_WTF), thread_count()
        shared = len(patches_WND) % cores if self.can_share else 0
        own = len(patches_WND) - shared
        parts = -(-own // WINDOWS_AT_ONCE)
        parts += -parts % cores  # so that no core is idle at the end
        own_WND, shared_WND = patches_WND.split([own, shared])
        done = []
        if own or not shared:
            done = on_each_core(self._encode, own_WND.tensor_split(max(1, min(parts, own))))
        if shared:
            done.append(on_one_core(lambda: self._encode(shared_WND)))
        return torch.cat(done)

    def _encode(self, patches_BND: Tensor) -> Tensor:
        cls = self.cls_token.expand(len(patches_BND), 1, -1)
        tokens, workspace = torch.cat([cls, patches_BND], dim=1), Workspace()
        for block in self.blocks:
            tokens = block(tokens, workspace)
        return self.norm(tokens[:, 1:])


class StreamState:
    """State of a causal block after earlier tokens, for windows processed in parts.

    Args:
        like_HK: a tensor with the block's heads and head size, on its device.
        dtype: data type of the matrix products.
    """

    def __init__(self, like_HK: Tensor, dtype: torch.dtype) -> None:
        inner = like_HK.numel()
        self.context = like_HK.new_zeros(1, CONV_WIDTH - 1, inner, dtype=dtype)  # for `convolve`
        self.state = mlstm.empty_state(like_HK[None, None])

    def tensors(self) -> tuple[Tensor, ...]:
        """The state in the form that a compiled block expects."""
        return self.context, *self.state

    def convolve(self, x_BSE: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve like `torch_impl.convolve`, with the preceding tokens as context."""
        x_BSE = torch.cat([self.context.to(x_BSE.dtype), x_BSE], dim=1)
        self.context = x_BSE[:, 1 - CONV_WIDTH :].to(self.context.dtype, copy=True)
        return torch_impl.convolve(x_BSE, weight, bias)[:, CONV_WIDTH - 1 :]

    def cell(self, q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
        """Compute `mlstm.cell` from the state after the preceding tokens."""
        h, self.state = mlstm.chunkwise(q, k, v, log_i, log_f, self.state)
        return h


class FusedMLSTM:
    """An mLSTM block with fused weights: the same result with fewer and cheaper operations.

    Args:
        block: block built from `hear_axlstm.models.layers`.
        dtype: data type of the large matrix products.
        pack: packs the weights of the projections.
    """

    def __init__(self, block: MLSTMBlock, dtype: torch.dtype, pack: Pack = packed) -> None:
        self.norm, self.reverse = 1.0 + block.norm.weight, block.reverse
        self.heads, self.head_size = block.heads, block.skip.numel() // block.heads
        self.log_gates = partial(mlstm.split_gates, input_gate=block.input_gate)
        self.gates = partial(mlstm.cell_gates, input_gate=block.input_gate)
        up, self.weights, down = fuse_weights(block.tensors(), block.heads, dtype)
        self.up, self.down = pack(up), pack(down)
        self.compiled = compiled_block(self.norm, self.up, self.weights, self.down, self.heads)

    def begin(self) -> StreamState:
        """State before the first token."""
        return StreamState(self.weights.skip, self.up.dtype)

    def __call__(
        self, tokens_BSD: Tensor, workspace: Workspace, state: StreamState | None = None
    ) -> Tensor:
        """Map float32 tokens ``[B, S, D]`` to float32 tokens ``[B, S, D]``, perhaps in place.

        Args:
            tokens_BSD: tokens of whole windows, or those that follow the tokens in `state`.
            workspace: scratch memory.
            state: state of a window that is processed in parts; updated in place.
        """
        if self.reverse:
            return self._forward(tokens_BSD.flip(1), workspace, state).flip(1)
        return self._forward(tokens_BSD, workspace, state)

    def _forward(
        self, tokens_BSD: Tensor, workspace: Workspace, state: StreamState | None
    ) -> Tensor:
        mixer = None if state else mixer_for(tokens_BSD, self.head_size)
        if self.compiled and (mixer or (state and uses_library(tokens_BSD))):
            before = state.tensors() if state else ()
            self.compiled(tokens_BSD, self.log_gates, workspace, before)
            return tokens_BSD
        normed = nnf.layer_norm(tokens_BSD, tokens_BSD.shape[-1:], self.norm, eps=NORM_EPS)
        xz = self.up(normed, workspace, "xz")
        if mixer:
            mixed = mixer(xz, self.weights, self.heads, self.gates, workspace)
        else:
            mixed = self._by_torch(xz, state)
        return tokens_BSD + self.down(mixed, workspace, "down").float()

    def _by_torch(self, xz_BSE: Tensor, state: StreamState | None) -> Tensor:
        inner = state.cell if state else mlstm.cell

        def cell(q: Tensor, k: Tensor, v: Tensor, raw_BSG: Tensor) -> Tensor:
            return inner(q, k, v, *self.log_gates(raw_BSG))

        convolve = state.convolve if state else torch_impl.convolve
        return torch_impl.fused_mixer(xz_BSE, self.weights, self.heads, cell, convolve)


def _fuse_block(block: nn.Module, index: int, dtype: torch.dtype, pack: Pack) -> Block:
    if type(block) is MLSTMBlock:
        for name, part in block.named_children():
            if type(part).__module__ != layers.__name__:
                raise _bypassed(f"blocks.{index}.{name} was replaced ({type(part).__name__})")
        return FusedMLSTM(block, dtype, pack)
    lower = copy.deepcopy(block).to(dtype)
    return lambda tokens_BSD, _: lower(tokens_BSD.to(dtype)).float()


def _bypassed(what: str) -> ValueError:
    return ValueError(
        f"{what}, which fused weights would bypass: undo that, or use the model unfused "
        "(model.unfuse())"
    )
