"""The optional backend for NVIDIA GPUs: the mLSTM cell's quadratic form as fused Triton kernels.

Scores, gates, normalizer and the sum over the past are computed in one pass over the keys and
values, forward and backward, without an S x S matrix in memory.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_HEAD = 1280  # head size whose running sum fits in registers
OLDEST_CAPABILITY = (8, 0)  # the first with tensor cores for bfloat16 and TF32


def is_available(device: torch.device) -> bool:
    """Whether Triton and an NVIDIA GPU of compute capability 8 or newer are available.

    On a CPU, Triton's interpreter can be used for tests (`TRITON_INTERPRET=1`); it is slow.
    """
    if not HAS_TRITON:
        return False
    if device.type == "cuda":
        return torch.version.cuda is not None and (
            torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY
        )
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def supports(q: Tensor) -> bool:
    """Whether there are kernels for queries ``[B, S, H, K]`` of this dtype and head size."""
    return q.dtype in DTYPES and q.shape[-1] <= LARGEST_HEAD


def quadratic_cell(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
) -> Tensor:
    """Hidden states of the cell on a GPU; see `hear_axlstm.ops.contract.QuadraticCell`.

    Differentiable once in all arguments. Products of bfloat16 and float16 are accumulated in
    float32. Those of float32 follow `torch.backends.cuda.matmul.fp32_precision`, which
    `torch.set_float32_matmul_precision` also sets: a single TF32 product if it is "tf32";
    otherwise, as by default, three of them, which is close to float32.

    The first call for a head size and a dtype compiles and times several tilings.

    Args:
        q: queries ``[B, S, H, K]``.
        k: keys ``[B, S, H, K]``, not yet divided by sqrt(K).
        v: values ``[B, S, H, K]``; all three in one dtype: float32, bfloat16 or float16. Any
            strides; tensors are copied only if the last dimension is not contiguous.
        a: log i - F, float64 ``[B, S, H]``, see `hear_axlstm.ops.contract.CellGates`.
        running_max: M, float64 ``[B, S, H]``.
        floor: exp(-m), float32 ``[B, S, H]``.

    Returns:
        h ``[B, S, H, K]`` in the dtype of v.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if the device, a dtype or a shape doesn't fit.
    """
    if not HAS_TRITON:
        raise ImportError(
            "the Triton backend needs Triton: run pip install '.[kernels]' in the clone"
        )
    _check(q, k, v, a, running_max, floor)
    from hear_axlstm.ops.triton_operators import forward  # needs Triton

    return forward(q, k, v, a, running_max, floor)[0]


def _check(q: Tensor, k: Tensor, v: Tensor, *gates: Tensor) -> None:
    tensors = (q, k, v, *gates)
    if not is_available(q.device) or any(t.device != q.device for t in tensors):
        devices = sorted({str(t.device) for t in tensors})
        raise ValueError(
            f"the Triton backend can't run on {devices}: put all six tensors on one NVIDIA GPU of "
            f"compute capability {OLDEST_CAPABILITY[0]} or newer, or set HEAR_AXLSTM_BACKEND=torch"
        )
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}: convert them to one of {DTYPES}"
        )
    if q.ndim != 4 or any(t.shape != q.shape[: t.ndim] for t in tensors):
        shapes = [tuple(t.shape) for t in tensors]
        raise ValueError(f"expected three [B, S, H, K] and three [B, S, H], got {shapes}")
