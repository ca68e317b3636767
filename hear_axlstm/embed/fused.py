"""Encoding on a CPU without gradients: fused weights, and a few windows at a time on each core.

Shapes: W windows, N patches, S = N + 1 tokens, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hear_axlstm.embed.fused_block import FusedMLSTM, Pack
from hear_axlstm.models import layers
from hear_axlstm.models.encoder import Encoder
from hear_axlstm.models.mlstm import MLSTMBlock, cell
from hear_axlstm.ops.backends import packed
from hear_axlstm.ops.cores import on_each_core, thread_count, without_torch_threads
from hear_axlstm.ops.tracing import check_storage
from hear_axlstm.ops.workspace import Workspace

WINDOWS_AT_ONCE = 2  # one would double the calls from Python; more do not fit in the cache
Block = Callable[[Tensor, Workspace], Tensor]  # tokens [B, S, D] to tokens, perhaps in place


class FusedEncoder:
    """Encoder with frozen weights, fused for fast inference on a CPU.

    Args:
        encoder: later changes to it do not affect the fused weights.
        dtype: data type of the matrix products inside the blocks, float32 or bfloat16.
        pack: packs the weights of the projections.

    Raises:
        ValueError: for an encoder with hooks, or with a replaced forward, cell or submodule of an
            mLSTM block.
    """

    @torch.no_grad()
    def __init__(self, encoder: Encoder, dtype: torch.dtype, pack: Pack = packed) -> None:
        self._encoder, self._modules = encoder, dict(encoder.named_modules())
        self.check_modules()
        self.patches, self.norm = copy.deepcopy((encoder.patches, encoder.norm))
        self.cls_token = encoder.cls_token.detach().clone()
        self.blocks = [_fuse_block(block, n, dtype, pack) for n, block in enumerate(encoder.blocks)]
        self.dtype = dtype
        self.is_compiled = all(getattr(block, "compiled", None) for block in self.blocks)

    def check_modules(self) -> None:
        """Raise ValueError if a module was replaced, or has code that would not be called."""
        modules = dict(self._encoder.named_modules())
        if modules != self._modules:
            both = self._modules | modules
            name = next(n for n in both if self._modules.get(n) is not modules.get(n))
            raise _bypassed(f"{name} was {_change(self._modules.get(name), modules.get(name))}")
        for name, module in modules.items():
            if module._forward_hooks or module._forward_pre_hooks:
                raise _bypassed(f"{name or 'the encoder'} has hooks")
            if "forward" in module.__dict__:
                raise _bypassed(f"the forward of {name or 'the encoder'} was replaced")
            if type(module) is MLSTMBlock and module.cell is not cell:
                raise _bypassed(f"the cell of {name} was replaced")

    @torch.no_grad()
    def __call__(self, mel_WTF: Tensor) -> Tensor:
        """Embed the patches of standardized log-mel ``[W, T, F]``, float32 ``[W, N, D]``.

        The result is that of `Encoder.forward` without the class token. Each core encodes the same
        number of windows; the remaining windows are encoded by all cores together.

        Raises:
            ValueError: if hooks were added to the encoder, or its modules replaced.
            TypeError: for a tensor of `torch.func`, whose transforms are local to a thread.
        """
        self.check_modules()
        check_storage(mel_WTF, "log-mel")
        patches_WND, cores = self.patches(mel_WTF), thread_count()
        shared = len(patches_WND) % cores if self.is_compiled else 0
        own = len(patches_WND) - shared
        parts = -(-own // WINDOWS_AT_ONCE)
        parts += -parts % cores  # so that no core is idle at the end
        own_WND, shared_WND = patches_WND.split([own, shared])
        done = []
        if own or not shared:
            done = on_each_core(self._encode, own_WND.tensor_split(max(1, min(parts, own))))
        if shared:
            done.append(without_torch_threads(lambda: self._encode(shared_WND)))
        return torch.cat(done)

    def _encode(self, patches_BND: Tensor) -> Tensor:
        cls = self.cls_token.expand(len(patches_BND), 1, -1)
        tokens, workspace = torch.cat([cls, patches_BND], dim=1), Workspace()
        for block in self.blocks:
            tokens = block(tokens, workspace)
        return self.norm(tokens[:, 1:])


def _fuse_block(block: nn.Module, index: int, dtype: torch.dtype, pack: Pack) -> Block:
    if type(block) is MLSTMBlock:
        for name, part in block.named_children():
            if type(part).__module__ != layers.__name__:
                raise _bypassed(f"blocks.{index}.{name} was replaced ({type(part).__name__})")
        return FusedMLSTM(block, dtype, pack)
    lower = copy.deepcopy(block).to(dtype)
    return lambda tokens_BSD, _: lower(tokens_BSD.to(dtype)).float()


def _change(before: nn.Module | None, now: nn.Module | None) -> str:
    if now is None:
        return "removed"
    return f"{'added' if before is None else 'replaced'} ({type(now).__name__})"


def _bypassed(what: str) -> ValueError:
    return ValueError(
        f"{what}, which fused weights would bypass: undo that, or use the model unfused "
        "(model.unfuse())"
    )
