"""The fused cell as PyTorch operators that support autograd and torch.compile.

They launch the kernels in `hear_axlstm.ops.triton_kernels`, which describes the shapes.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
from torch import Tensor

from hear_axlstm.ops import triton_kernels as kernels

VECTOR_ROWS = 64  # rows per program in kernels without matrix products
# Rows, columns, warps and stages of software pipelining. The first tilings suit large heads in
# float32 and GPUs with little shared memory; the last ones need the shared memory of Hopper.
TILINGS = (
    (16, 16, 4, 1), (32, 16, 8, 1), (64, 16, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2), (64, 64, 4, 2),
    (128, 64, 8, 2),
)  # fmt: skip
INTERPRETED_TILING = (64, 32, 4, 1)
REGISTERS = 160  # of the 255 per thread, for the running sum


def head_tiles(size: int) -> tuple[int, int]:
    """Widths HEAD and REST, powers of two that cover a head size; REST is 0 if HEAD suffices."""
    head = max(16, 1 << size.bit_length() - 1)
    return head, max(16, triton.next_power_of_2(size - head)) if size > head else 0


def _fitting(configs: list[Any], _: dict[str, Any], **constants: Any) -> list[Any]:
    """Tilings whose running sum fits in registers; Triton drops those that exceed shared memory."""
    size = constants["HEAD"] + constants["REST"]
    return [c for c in configs if c.kwargs["ROWS"] * size <= REGISTERS * 32 * c.num_warps]


def _tuned(kernel: Any) -> Any:
    """A kernel that is autotuned on the first call with a head size and dtype."""
    tilings = (INTERPRETED_TILING,) if kernels.INTERPRETED.value else TILINGS
    configs = [
        triton.Config({"ROWS": rows, "COLS": cols}, num_warps=warps, num_stages=stages)
        for rows, cols, warps, stages in tilings
    ]
    prune = {"early_config_prune": _fitting}
    return triton.autotune(configs, key=["K", "PRECISION", "WRT"], prune_configs_by=prune)(kernel)


_hidden_states = _tuned(kernels.hidden_states)
_gradient = _tuned(kernels.gradient)


@torch.library.custom_op("hear_axlstm::quadratic_cell", mutates_args=())
def forward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, running_max: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states h, and the sums n and split gates for the backward pass."""
    q, k, v = (_with_contiguous_rows(x) for x in (q, k, v))
    batch, tokens, heads, size = q.shape
    h = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    n = torch.empty((batch, heads, tokens), dtype=torch.float32, device=q.device)
    gates = torch.empty((batch, heads, 4, tokens), dtype=torch.float32, device=q.device)
    with _on(q.device):
        kernels.gates_as_pairs[_grid(q)](
            a, running_max, gates, a.stride(), running_max.stride(), math.log2(size) / 2,
            tokens, heads, ROWS=VECTOR_ROWS,
        )  # fmt: skip
        _hidden_states[lambda tiling: _grid(q, tiling["ROWS"])](
            q, k, v, gates, floor, h, n, *_strides(q, k, v, h), floor.stride(),
            tokens, heads, **_constants(q), PRECISION=_precision(q.dtype),
        )  # fmt: skip
    return h, n, gates


@torch.library.custom_op("hear_axlstm::quadratic_cell_backward", mutates_args=())
def backward(
    grad_h: Tensor, q: Tensor, k: Tensor, v: Tensor, floor: Tensor, h: Tensor, n: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v and, in float32, of a, the running maximum and the floor."""
    g, q, k, v = (_with_contiguous_rows(x) for x in (grad_h, q, k, v))
    batch, tokens, heads, _ = q.shape
    terms = torch.empty((batch, heads, 2, tokens), dtype=torch.float32, device=q.device)
    grad_q, grad_k, grad_v = (
        torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3)
    )
    grad_a, grad_max, grad_floor = (
        torch.empty(n.shape, dtype=torch.float32, device=q.device) for _ in range(3)
    )
    with _on(q.device):
        kernels.normalizer_gradients[_grid(q)](
            g, h, n, floor, terms, grad_floor, *_strides(g, h), floor.stride(),
            tokens, heads, **_constants(q), ROWS=VECTOR_ROWS,
        )  # fmt: skip
        for wrt, x, y, z, tensor, grad, grad_gate in (
            ("q", g, v, k, q, grad_q, grad_max),
            ("k", v, g, q, k, grad_k, grad_a),
            ("v", k, q, g, v, grad_v, grad_a),
        ):
            _gradient[lambda tiling: _grid(q, tiling["ROWS"])](
                x, y, z, gates, terms, tensor, grad, grad_gate, *_strides(x, y, z, tensor, grad),
                tokens, heads, **_constants(q), PRECISION=_precision(q.dtype), WRT=wrt,
            )  # fmt: skip
    gate_grads = grad_a.transpose(1, 2), grad_max.transpose(1, 2), grad_floor.transpose(1, 2)
    return grad_q, grad_k, grad_v, *gate_grads


@forward.register_fake
def _(q, k, v, a, running_max, floor):
    batch, tokens, heads, _ = q.shape
    vectors = floor.new_empty(batch, heads, tokens), floor.new_empty(batch, heads, 4, tokens)
    return q.new_empty(q.shape), *vectors


@backward.register_fake
def _(grad_h, q, k, v, floor, h, n, gates):
    grads = *(torch.empty_like(h) for _ in range(3)), *(torch.empty_like(n) for _ in range(3))
    return *grads[:3], *(x.transpose(1, 2) for x in grads[3:])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, a, _, floor = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, floor, *output)
    ctx.gate_dtype = a.dtype


def _differentiate(ctx: Any, grad_h: Tensor, *_: None) -> tuple[Tensor, ...]:
    *grads, grad_a, grad_max, grad_floor = backward(grad_h, *ctx.saved_tensors)
    return *grads, grad_a.to(ctx.gate_dtype), grad_max.to(ctx.gate_dtype), grad_floor


forward.register_autograd(_differentiate, setup_context=_keep)


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [x.stride()[:3] for x in tensors]


def _grid(q: Tensor, rows: int = VECTOR_ROWS) -> tuple[int]:
    batch, tokens, heads, _ = q.shape
    return (batch * heads * triton.cdiv(tokens, rows),)


def _constants(q: Tensor) -> dict[str, int]:
    head, rest = head_tiles(q.shape[-1])
    return {"K": q.shape[-1], "HEAD": head, "REST": rest}


def _precision(dtype: torch.dtype) -> str:
    """How Triton uses TF32 for products in float32; ignored for half-precision types."""
    return "tf32x3" if dtype == torch.float32 and not _allows_tf32() else "tf32"


def _allows_tf32() -> bool:
    settings = torch.backends.cuda.matmul
    if hasattr(settings, "fp32_precision"):  # the older getter raises if the newer one was used
        return settings.fp32_precision == "tf32"
    return torch.get_float32_matmul_precision() != "highest"


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current one, since Triton launches on the current GPU."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
