"""The weights of an mLSTM block in the form in which a CPU computes fastest.

Folding makes the same function cheaper: q and k read the same input c, so that q . k = c . (A c)
with A = Wq^T Wk needs one block-diagonal map instead of two, and the gates, which read q, k and v,
come straight from c and x. Channels of x and c are reordered by their place (0 to 3) inside the
4 x 4 blocks of the maps, so that a map is four multiply-adds of long rows.

Shapes: D model width, H heads, J blocks of a head in the maps, K = 4 J head size, E = H K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hear_axlstm.config import InputGate

if TYPE_CHECKING:
    from hear_axlstm.models.blocks import BlockDiagonalMap, MLSTMBlock

MAP_WIDTH = 4  # channels that each block of a block-diagonal map mixes


class MixWeights(NamedTuple):
    """What stands between the two projections, in the order in which native/numbers.h has it."""

    conv: Tensor
    """``[4, E]``, channels by place, ``[4, H, J]``."""
    conv_bias: Tensor
    """``[E]``, by place."""
    key: Tensor
    """A, ``[in 4, out 4, H J]``."""
    value: Tensor
    """Likewise."""
    gates_c: Tensor
    """``[2 H, E]``, input gates first, channels by place."""
    gates_x: Tensor
    """Likewise."""
    gate_bias: Tensor
    """``[2 H]``."""
    head_norm: Tensor
    """Scale, ``[H, K]``, channels of a head by place, ``[4, J]``."""
    skip: Tensor
    """Likewise."""


class MixSettings(NamedTuple):
    """What of it is no tensor."""

    heads: int
    head_size: int
    input_gate: InputGate
    cell_eps: float
    """Added to the cell's normalizer."""
    norm_eps: float
    """Added to the variance in the head norm."""


class Folded(NamedTuple):
    """All weights of a block but those of its first norm."""

    up: Tensor
    """``[2 E, D]``: x by place, then z by head and place."""
    mix: MixWeights
    down: Tensor
    """``[D, E]``, channels by head and place."""


def parts(block: nn.Module) -> list[tuple[object, ...]]:
    """The modules inside of a block: name, type, whether they are bare, parameters, own parts.

    Folding reads their weights, so it needs them as the block made them: wrapped, replaced,
    parametrized or watched by hooks they differ here.
    """
    return [
        (
            *(name, type(part), is_bare(part), parts(part)),
            *(key for key, parameter in part._parameters.items() if parameter is not None),
        )
        for name, part in block._modules.items()
        if part is not None
    ]


def is_bare(module: nn.Module) -> bool:
    """Whether a module computes what its class says, and no hook watches it."""
    return not (
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def fold(block: MLSTMBlock, dtype: torch.dtype = torch.float32) -> Folded:
    """Fold the weights of a block, with gradients.

    Args:
        block: whose parts are as it made them.
        dtype: of the two projections; what stands between them keeps its own.
    """
    channels = (block.heads, -1, MAP_WIDTH)

    def by_place(weight: Tensor) -> Tensor:
        """Reorder the last axis, E channels, as [place, head, block]."""
        return weight.unflatten(-1, channels).movedim(-1, -3).flatten(-3).contiguous()

    def by_head(weight: Tensor) -> Tensor:
        """Reorder the last axis as [head, place, block]."""
        return weight.unflatten(-1, channels).transpose(-1, -2).flatten(-2)

    with torch.autocast(block.up.weight.device.type, enabled=False):
        # Of the projections, the largest by far, rows are moved whole and in their final type.
        x_HJPD, z_HJPD = block.up.weight.to(dtype).unflatten(0, (2, *channels)).unbind()
        up_x, up_z = x_HJPD.movedim(2, 0), z_HJPD.transpose(1, 2)
        up = torch.cat([up_x.flatten(0, 2), up_z.flatten(0, 2)])
        down = by_head(block.down.weight.to(dtype)).flatten(-2)
        gates = torch.cat([block.input_gate_map.weight, block.forget_gate_map.weight])
        of_q, of_k, of_v = gates.chunk(3, dim=1)
        mix = MixWeights(
            conv=by_place(block.conv.weight),
            conv_bias=by_place(block.conv.bias),
            key=_by_input(block.q.weight.mT @ block.k.weight),
            value=_by_input(block.v.weight),
            gates_c=by_place(_through(of_q, block.q) + _through(of_k, block.k)),
            gates_x=by_place(_through(of_v, block.v)),
            gate_bias=torch.cat([block.input_gate_map.bias, block.forget_gate_map.bias]),
            head_norm=by_head(1.0 + block.head_norm.weight).contiguous(),
            skip=by_head(block.skip).contiguous(),
        )
        return Folded(up, mix, down)


def _by_input(blocks: Tensor) -> Tensor:
    """Blocks ``[n, out 4, in 4]`` as weights ``[in 4, out 4, n]``."""
    return blocks.permute(2, 1, 0).contiguous()


def _through(gates: Tensor, block_map: BlockDiagonalMap) -> Tensor:
    """Weights ``[2 H, E]`` that read a map's output, as weights that read its input."""
    blocks = gates.unflatten(1, (len(block_map.weight), -1))
    return torch.einsum("gno,noi->gni", blocks, block_map.weight).flatten(1)
