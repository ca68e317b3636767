"""Compile the fused cell for Hopper, without a GPU, for one head size; test_triton.py calls this.

    python tests/ops/compile_kernels.py SIZE CACHE

In a process of its own, because Triton decides on import whether it interprets or compiles.
"""

from __future__ import annotations

import os
import sys
from typing import Any

MATRICES = {"q", "k", "v", "h", "g", "x", "y", "z", "wrt", "out"}
LEAST_SHARED_MEMORY = 99 * 1024  # a program's on the smaller GPUs of capability 8 and newer


def main(size: int, cache: str) -> None:
    os.environ["TRITON_CACHE_DIR"] = cache
    os.environ.pop("TRITON_INTERPRET", None)
    from hear_axlstm.ops import triton_kernels as kernels
    from hear_axlstm.ops import triton_operators as operators

    compile_for_hopper(kernels.gates_as_pairs, "fp32", {"ROWS": operators.VECTOR_ROWS})
    head, rest = operators.head_tiles(size)
    tiles = {"K": size, "HEAD": head, "REST": rest}
    for dtype, precision in ("bf16", "tf32"), ("fp32", "tf32x3"):
        rows = {"ROWS": operators.VECTOR_ROWS}
        compile_for_hopper(kernels.normalizer_gradients, dtype, tiles | rows)
        constants: dict[str, Any] = tiles | {"PRECISION": precision}
        for rows, cols, warps, stages in operators.TILINGS[0], operators.TILINGS[2]:
            constants |= {"ROWS": rows, "COLS": cols}
            launch = {"num_warps": warps, "num_stages": stages}
            used = [compile_for_hopper(kernels.hidden_states, dtype, constants, **launch)]
            for wrt in "qkv":
                gradient_of = constants | {"WRT": wrt}
                used += [compile_for_hopper(kernels.gradient, dtype, gradient_of, **launch)]
            print(size, dtype, (rows, cols, warps, stages), "shared memory", max(used))
            if (rows, cols, warps, stages) == operators.TILINGS[0]:
                assert max(used) <= LEAST_SHARED_MEMORY


def compile_for_hopper(program: Any, dtype: str, constants: dict[str, Any], **launch: int) -> int:
    """Shared memory of the compiled program in bytes; raises where it doesn't compile."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def kind(name: str) -> Any:
        if name in constants:
            return "constexpr"
        if name.endswith("strides"):
            return "i32", "i32", "i32"
        scalars = {"S": "i32", "H": "i32", "shift": "fp32"}
        gates = {"a": "*fp64", "running_max": "*fp64"}
        return (scalars | gates).get(name) or f"*{dtype if name in MATRICES else 'fp32'}"

    names = program.arg_names
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(program, {name: kind(name) for name in names}, values)
    return triton.compile(source, GPUTarget("cuda", 90, 32), launch).metadata.shared


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
