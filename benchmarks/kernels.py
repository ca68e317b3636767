"""`python -m benchmarks.kernels`: the fused cell on a GPU, the plain form and mlstm_kernels.

The times are medians over rounds in which every form takes its turn. A TFLOP is one of the
products that the mathematics requires, over the causal half: two in the forward pass and four more
in the backward pass. What a form recomputes, pads or computes above the diagonal doesn't count.

Shapes: B windows, S tokens, H heads, K head size.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import tyro
from torch import Tensor
from torch.nn import functional as nnf
from tqdm import tqdm

from hear_axlstm.models import mlstm
from hear_axlstm.ops import triton_impl
from tests.reference.mlstm import plain_parallel

HEADS = 4
CALLS = 5  # between two readings of the clock
CHUNK = 64  # of mlstm_kernels; tokens must be a multiple of it
Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Work = Callable[[], object]


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
    if not torch.cuda.is_available() or not triton_impl.is_available(torch.device("cuda")):
        print("The fused cell needs an NVIDIA GPU with Triton, and none is available.")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {windows} windows\n")
    print("| head | tokens | dtype | pass | form | ms | x plain | TFLOP/s |")
    print("|---|---|---|---|---|---|---|---|")
    cases = [
        (size, count, dtype, backward)
        for size in sizes
        for count in tokens
        for dtype in (torch.bfloat16, torch.float32)
        for backward in (False, True)
    ]
    for size, count, dtype, backward in tqdm(cases, leave=False):
        products = 6 if backward else 2
        flop = products * 2 * windows * HEADS * size * count * (count + 1) / 2
        times = _times((windows, count, HEADS, size), dtype, backward, rounds)
        for name, ms in times.items():
            case = f"| {size} | {count} | {str(dtype)[6:]} | {'both' if backward else 'forward'} "
            speed = f"{times.get('plain', float('nan')) / ms:.2f} | {flop / ms / 1e9:.1f}"
            tqdm.write(f"{case}| {name} | {ms:.3f} | {speed} |")


def padded_mlstm_kernels(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor) -> Tensor:
    """Their fastest kernel, on the inputs it takes: [B, H, S, K], whole chunks, powers of two.

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


def _forms() -> dict[str, Form]:
    forms: dict[str, Form] = {
        "plain": plain_parallel,
        "plain, compiled": torch.compile(plain_parallel, dynamic=False),
        "mlstm.parallel": mlstm.parallel,
        "fused": lambda q, k, v, *gates: triton_impl.mlstm_sum(q, k, v, *mlstm.stabilize(*gates)),
    }
    if find_spec("mlstm_kernels"):
        forms["mlstm_kernels, padded"] = padded_mlstm_kernels
    return forms


def _times(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backward: bool, rounds: int
) -> dict[str, float]:
    """Milliseconds of a call of each form; a form that fails says so and is left out."""
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
            works[name] = work
    readings = [{name: _milliseconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: statistics.median(reading[name] for reading in readings) for name in works}


def _call(form: Form, qkv: list[Tensor], raw: list[Tensor], gradient: Tensor | None) -> None:
    dtype = qkv[0].dtype
    log_i, log_f = mlstm.log_gates(raw[0], raw[1], "exponential")
    with torch.set_grad_enabled(gradient is not None):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            h = form(qkv[0], qkv[1], qkv[2], log_i, log_f)
        if gradient is not None:
            torch.autograd.grad(h, [*qkv, *raw], gradient.to(h.dtype))


def _milliseconds(work: Work) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / CALLS


if __name__ == "__main__":
    tyro.cli(main)
