"""The mixer of Mamba: a selective state space model over the tokens, forward only.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), in its first
form. Shapes: B sequences, L tokens, D width, E inner channels, S states of a channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems.parts.checkpoint import Checkpoint, CheckpointError

TAPS = 4  # of the causal convolution


class MambaMixer(nn.Module):
    """Causal map of tokens [B, L, D] -> [B, L, D]."""

    def __init__(self, dim: int, inner: int, states: int, rank: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, TAPS, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, states))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.sizes = (rank, states, states)

    def forward(self, h_BLD: Tensor) -> Tensor:
        """Tokens [B, L, D] -> [B, L, D]."""
        x, z = self.in_proj(h_BLD).chunk(2, dim=-1)  # [B, L, E] each
        x = F.silu(self._convolution(x))
        rank, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        delta = F.softplus(self.dt_proj(rank))
        y = selective_scan(delta, x, B, C, -self.A_log.exp())
        return self.out_proj((y + self.D * x) * F.silu(z))

    def _convolution(self, x_BLE: Tensor) -> Tensor:
        """Each channel with its own four taps, the last of them on the token itself."""
        length = x_BLE.shape[1]
        padded = F.pad(x_BLE, (0, 0, TAPS - 1, 0))
        taps = self.conv1d.weight[:, 0].T  # [4, E]
        assert self.conv1d.bias is not None
        out = self.conv1d.bias.expand_as(x_BLE)
        for k in range(TAPS):
            out = out.addcmul(padded[:, k : k + length], taps[k])
        return out


def selective_scan(
    delta_BLE: Tensor, x_BLE: Tensor, B_BLS: Tensor, C_BLS: Tensor, A_ES: Tensor
) -> Tensor:
    """The sums over S of C_i s_i, [B, L, E], where s_i = exp(delta_i A) s_(i-1) + delta_i B_i x_i.

    One step per token processes all sequences. States are stored as [B, S, E], tokens come first,
    so that every operation runs along contiguous channels, in memory that each step reuses.
    """
    A_SE = A_ES.T.contiguous()
    x, delta, B, C = (t.transpose(0, 1).contiguous() for t in (x_BLE, delta_BLE, B_BLS, C_BLS))
    inputs = (delta[:, :, None], (delta * x)[:, :, None], B[..., None], C[:, :, None])
    state = x.new_zeros(len(x_BLE), *A_SE.shape)
    decay = torch.empty_like(state)
    y = torch.empty_like(x)[:, :, None]
    with _one_thread(x.device):  # sharing operations this small costs more than it saves
        for y_i, delta_i, update_i, B_i, C_i in zip(y, *inputs, strict=True):
            torch.mul(delta_i, A_SE, out=decay)
            state.mul_(decay.exp_()).addcmul_(update_i, B_i)
            torch.bmm(C_i, state, out=y_i)
    return y[:, :, 0].transpose(0, 1)


def mixer_sizes(checkpoint: Checkpoint, prefix: str) -> tuple[int, int, int]:
    """Inner channels, states and rank of the mixer whose tensor names start with `prefix`.

    Raises:
        CheckpointError: if they are missing or contradict each other.
    """
    inner, states = checkpoint.shape(f"{prefix}A_log", 2)
    rank = checkpoint.shape(f"{prefix}dt_proj.weight", 2)[1]
    if not inner or not states or not rank:
        raise CheckpointError(f"{checkpoint.path}: {prefix}A_log has shape {[inner, states]}")
    return inner, states, rank


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Run operations on a CPU in the calling thread only."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
