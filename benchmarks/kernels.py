"""`python -m benchmarks.kernels`: the fused cell on a GPU, the plain form and mlstm_kernels.

The times are medians over rounds in which every form takes its turn. A TFLOP is one of the
products that the mathematics requires, over the causal half: two in the forward pass and four more
in the backward pass. What a form recomputes, pads or computes above the diagonal doesn't count.

Shapes: B windows, S tokens, H heads, K head size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
import tyro
from torch import Tensor
from torch.nn import functional as nnf
from tqdm import tqdm

from benchmarks.tables import show
from benchmarks.timing import Work, in_turns, machine, often
from hear_axlstm.models import mlstm
from hear_axlstm.ops import triton_impl
from tests.reference.mlstm import plain_parallel

HEADS = 4
CALLS = 5  # between two readings of the clock
CHUNK = 64  # of mlstm_kernels; tokens must be a multiple of it
Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def main(
    sizes: tuple[int, ...] = (144, 288, 576),
    tokens: tuple[int, ...] = (251, 1001),
    windows: int = 64,
    rounds: int = 20,
) -> None:
    """Measure and print a Markdown table.

    Args:
        sizes: Head sizes.
        tokens: Tokens in a window.
        windows: Windows per call.
        rounds: Repetitions; the table shows medians.
    """
    device = torch.device("cuda")
    if not torch.cuda.is_available() or not triton_impl.is_available(device):
        print("The fused cell needs an NVIDIA GPU with Triton, and none is available.")
        return
    dtypes = (torch.bfloat16, torch.float32)
    cases = list(itertools.product(sizes, tokens, dtypes, (False, True)))
    show(
        f"{machine(device)}, {windows} windows",
        ("head", "tokens", "dtype", "pass", "form", "ms", "x plain", "TFLOP/s"),
        (
            row
            for size, count, dtype, backward in tqdm(cases, leave=False)
            for row in _rows((windows, count, HEADS, size), dtype, backward, rounds)
        ),
    )


def _rows(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backward: bool, rounds: int
) -> Iterator[list[str]]:
    windows, tokens, heads, size = shape
    flop = (6 if backward else 2) * 2 * windows * heads * size * tokens * (tokens + 1) / 2
    times = _times(shape, dtype, backward, rounds)
    for name, seconds in times.items():
        case = [str(size), str(tokens), str(dtype)[6:], "both" if backward else "forward"]
        ratio = times.get("plain", math.nan) / seconds
        speed = [f"{1e3 * seconds:.3f}", f"{ratio:.2f}", f"{flop / seconds / 1e12:.1f}"]
        yield [*case, name, *speed]


def padded_mlstm_kernels(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The fastest kernel of mlstm_kernels, on inputs padded to whole chunks and powers of two.

    It takes the logsigmoid of its forget gate; with log_f in its place the time is the same.
    """
    from mlstm_kernels.torch import get_mlstm_kernel

    cell = get_mlstm_kernel("chunkwise--triton_xl_chunk")
    tokens, size = q.shape[1], q.shape[3]
    more = -tokens % CHUNK
    wider = (1 << (size - 1).bit_length()) - size
    qkv = (nnf.pad(x.transpose(1, 2), (0, wider, 0, more)) for x in (q, k, v))
    gates = (nnf.pad(x.transpose(1, 2), (0, more)) for x in (log_i, log_f))
    h = cell(*qkv, *gates, chunk_size=CHUNK, autocast_kernel_dtype=q.dtype)
    return h[:, :, :tokens, :size].transpose(1, 2)


def fused(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """The Triton kernel."""
    return triton_impl.quadratic_cell(q, k, v, *mlstm.stabilize(log_i, log_f))


def _forms() -> dict[str, Form]:
    forms: dict[str, Form] = {
        "plain": plain_parallel,
        "plain, compiled": torch.compile(plain_parallel, dynamic=False),
        "mlstm.quadratic": mlstm.quadratic,
        "fused": fused,
    }
    if find_spec("mlstm_kernels"):
        forms["mlstm_kernels, padded"] = padded_mlstm_kernels
    return forms


def _times(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backward: bool, rounds: int
) -> dict[str, float]:
    """Seconds of a call of each form; a form that fails is reported and left out."""
    qkv = [torch.randn(shape, device="cuda", dtype=dtype).requires_grad_() for _ in range(3)]
    raw = [torch.randn(shape[:3], device="cuda").requires_grad_() for _ in range(2)]
    gradient = torch.randn(shape, device="cuda", dtype=dtype)
    torch.compiler.reset()  # it stops compiling after a few shapes
    works: dict[str, Work] = {}
    for name, form in _forms().items():
        work: Work = partial(_call, form, qkv, raw, gradient if backward else None)
        try:
            work()
        except Exception as error:
            tqdm.write(f"{name} fails at {shape}: {str(error).splitlines()[0]}")
        else:
            works[name] = often(work, CALLS)
    seconds = in_turns(works, rounds, torch.device("cuda"))
    return {name: value / CALLS for name, value in seconds.items()}


def _call(form: Form, qkv: list[Tensor], raw: list[Tensor], gradient: Tensor | None) -> None:
    dtype = qkv[0].dtype
    log_i, log_f = mlstm.log_gates(raw[0], raw[1], "exponential")
    with torch.set_grad_enabled(gradient is not None):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            h = form(qkv[0], qkv[1], qkv[2], log_i, log_f)
        if gradient is not None:
            torch.autograd.grad(h, [*qkv, *raw], gradient.to(h.dtype))


if __name__ == "__main__":
    tyro.cli(main)
