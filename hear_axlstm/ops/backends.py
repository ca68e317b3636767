"""Selection of the backend, once for each device.

The environment variable HEAR_AXLSTM_BACKEND, read at first use, selects one:

    auto    the fastest that works: `cpu` on a CPU, `triton` on an NVIDIA GPU, else `torch`
    torch   PyTorch alone
    cpu     compiled C++, for tensors on a CPU
    triton  Triton kernels, for tensors on an NVIDIA GPU

A backend supports only its own type of device; PyTorch handles tensors on other devices.
"""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor

from hear_axlstm.ops import cpu_mixer, library, torch_impl, triton_impl
from hear_axlstm.ops.contract import Mixer, MixerWeights, QuadraticCell, is_short
from hear_axlstm.ops.cpu_block import CompiledBlock
from hear_axlstm.ops.packed_linear import PackedLinear

log = logging.getLogger(__name__)

SWITCH = "HEAR_AXLSTM_BACKEND"
BACKENDS = ("auto", "torch", "cpu", "triton")
TOLERANCE = 1e-3  # of the self-check, relative to the largest value

_chosen: dict[str, str] = {}  # by device


def backend(device: torch.device | str) -> str:
    """Return the backend for a device: "torch", "cpu" or "triton".

    Args:
        device: a device or its name; "cuda" is the current GPU.

    Raises:
        ValueError: if HEAR_AXLSTM_BACKEND names an unknown backend or one unavailable here.
    """
    name = f"cuda:{torch.cuda.current_device()}" if str(device) == "cuda" else str(device)
    if name not in _chosen:
        if torch.compiler.is_compiling():
            return "torch"  # the only choice while a graph is being traced
        _chosen[name] = _choose(torch.device(name))
    return _chosen[name]


def quadratic_cell(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
) -> Tensor:
    """Hidden states of the cell by the backend; see `hear_axlstm.ops.contract.QuadraticCell`."""
    by_triton = backend(q.device) == "triton" and triton_impl.supports(q)
    form: QuadraticCell = triton_impl.quadratic_cell if by_triton else torch_impl.quadratic_cell
    return form(q, k, v, a, running_max, floor)


def mixer_for(x_BSD: Tensor, head_size: int) -> Mixer | None:
    """Return the backend's mixer, if it has one for such windows."""
    has_mixer = uses_library(x_BSD) and is_short(x_BSD.shape[1], head_size)
    return cpu_mixer.mixer if has_mixer else None


def uses_library(x: Tensor) -> bool:
    """Whether the backend for tensors like this one is the compiled library."""
    return x.device.type == "cpu" and cpu_mixer.is_usable(x) and backend("cpu") == "cpu"


def compiled_block(
    norm: Tensor, up: PackedLinear, weights: MixerWeights, down: PackedLinear, heads: int
) -> CompiledBlock | None:
    """Return a block with fixed weights in compiled code, if its projections are packed for it."""
    is_packed = up.is_packed and down.is_packed
    return CompiledBlock(norm, up, weights, down, heads) if is_packed else None


def packed(weight: Tensor) -> PackedLinear:
    """Pack a linear layer's fixed weight ``[out, in]`` in the backend's layout for many tokens."""
    by_gemm = library.gemm_is_fastest(weight.dtype)
    return packed_for_few(weight) if by_gemm else PackedLinear(weight, 0)


def packed_for_few(weight: Tensor) -> PackedLinear:
    """Pack a linear layer's fixed weight ``[out, in]`` in the backend's layout for few tokens."""
    by_gemm = backend("cpu") == "cpu"
    return PackedLinear(weight, library.gemm_columns() if by_gemm else 0)


def _choose(device: torch.device) -> str:
    asked = os.environ.get(SWITCH, "auto")
    if asked not in BACKENDS:
        raise ValueError(f"{SWITCH}={asked!r}: use one of {', '.join(BACKENDS)}")
    if asked == "torch":
        return "torch"
    if device.type == "cpu" and asked in ("auto", "cpu"):
        if asked == "cpu" and not library.is_available():
            raise ValueError(
                f"{SWITCH}=cpu, but there is no compiled library: install a C++ compiler and "
                "reinstall the package, or use auto"
            )
        return "cpu" if library.is_available() else "torch"
    if asked == "triton" and triton_impl.is_available(device):
        return "triton"
    if device.type == "cuda" and asked == "triton":
        raise ValueError(
            f"{SWITCH}=triton needs Triton and an NVIDIA GPU of compute capability 8.0 or newer: "
            "use auto"
        )
    is_cuda = device.type == "cuda" and triton_impl.is_available(device)
    return "triton" if asked == "auto" and is_cuda and triton_agrees(device) else "torch"


@torch.inference_mode(False)
@torch.enable_grad()
def triton_agrees(device: torch.device | str) -> bool:
    """Whether the Triton kernels compile and agree with PyTorch on a small case."""
    generator, on_cpu = torch.Generator("cpu").manual_seed(0), torch.device("cpu")
    shape = 1, 70, 1, 48
    q, k, v = (
        torch.rand(shape, generator=generator, dtype=torch.float32, device=on_cpu) for _ in "qkv"
    )
    a = torch.randn(shape[:3], generator=generator, dtype=torch.float64, device=on_cpu)
    running_max = a.cummax(1).values
    floor = torch.full(shape[:3], 0.1, dtype=torch.float32, device=on_cpu)
    leaves = [x.to(device).requires_grad_() for x in (q, k, v, a, running_max, floor)]
    results = []
    try:
        # The caller's autocast would round the reference.
        with torch.autocast(torch.device(device).type, enabled=False):
            for form in (torch_impl.quadratic_cell, triton_impl.quadratic_cell):
                h = form(*leaves)
                results.append((h, *torch.autograd.grad(h.square().sum(), leaves)))
    except Exception as error:  # a compiler's errors have any type
        log.warning("the Triton kernels can't be used, falling back to PyTorch: %s", error)
        return False
    size = max(x.abs().max().item() for x in results[0])  # some gradients nearly cancel
    for expected, found in zip(*results, strict=True):
        if not (found - expected).abs().max() <= TOLERANCE * size:
            log.warning("the Triton kernels disagree with PyTorch, falling back to PyTorch")
            return False
    return True
