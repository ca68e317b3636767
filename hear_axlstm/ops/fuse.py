"""Fusion of an mLSTM block's weights for fast inference and training on a CPU.

Fusing makes the same function cheaper: q and k have the same input c, so that
q . k = c . (A c) with A = Wq^T Wk needs one block-diagonal map instead of two, and the gates,
functions of q, k and v, are computed directly from c and x. Channels of x and c are interleaved:
ordered by their place (0 to 3) inside the 4 x 4 blocks of the maps, so that a map is four
multiply-adds of long rows.

Shapes: D model width, H heads, J blocks of a head in the maps, K = 4 J head size, E = H K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hear_axlstm.ops.contract import MAP_WIDTH, BlockTensors, FusedWeights, MixerWeights


def fuse_weights(
    block: BlockTensors, heads: int, dtype: torch.dtype = torch.float32
) -> FusedWeights:
    """Fuse the weights of a block, differentiably.

    Args:
        block: parameters of the block.
        heads: H.
        dtype: type of the two projections; the other weights keep their own.
    """
    channels = (heads, -1, MAP_WIDTH)

    def by_place(weight: Tensor) -> Tensor:
        """Reorder the last axis, E channels, as [place, head, block]."""
        return weight.unflatten(-1, channels).movedim(-1, -3).flatten(-3).contiguous()

    def by_head(weight: Tensor) -> Tensor:
        """Reorder the last axis as [head, place, block]."""
        return weight.unflatten(-1, channels).transpose(-1, -2).flatten(-2)

    with torch.autocast(block.proj_up.device.type, enabled=False):
        # The projections are by far the largest: their rows are moved whole, in the final type.
        x_HJPD, z_HJPD = block.proj_up.to(dtype).unflatten(0, (2, *channels)).unbind()
        up_x, up_z = x_HJPD.movedim(2, 0), z_HJPD.transpose(1, 2)
        of_q, of_k, of_v = torch.cat([block.igate, block.fgate]).chunk(3, dim=1)
        mixer = MixerWeights(
            conv=by_place(block.conv),
            conv_bias=by_place(block.conv_bias),
            key=_by_input(block.q_proj.mT @ block.k_proj),
            value=_by_input(block.v_proj),
            gates_c=by_place(_through(of_q, block.q_proj) + _through(of_k, block.k_proj)),
            gates_x=by_place(_through(of_v, block.v_proj)),
            gate_bias=torch.cat([block.igate_bias, block.fgate_bias]),
            head_norm=by_head(1.0 + block.head_norm).contiguous(),
            skip=by_head(block.skip).contiguous(),
        )
        up = torch.cat([up_x.flatten(0, 2), up_z.flatten(0, 2)])
        return FusedWeights(up, mixer, by_head(block.proj_down.to(dtype)).flatten(-2))


def _by_input(blocks: Tensor) -> Tensor:
    """Reorder blocks ``[n, out 4, in 4]`` as weights ``[in 4, out 4, n]``."""
    return blocks.permute(2, 1, 0).contiguous()


def _through(gates: Tensor, blocks: Tensor) -> Tensor:
    """Transform weights ``[2 H, E]`` on a map's output into weights on its input."""
    return torch.einsum("gno,noi->gni", gates.unflatten(1, (len(blocks), -1)), blocks).flatten(1)
