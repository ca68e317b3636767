"""A whole block in compiled code against PyTorch in float64."""

from __future__ import annotations

import os
import shutil
from functools import partial

import pytest
import torch
from torch import Tensor

from hear_axlstm.models.mlstm import MLSTMBlock, split_gates
from hear_axlstm.ops import library
from hear_axlstm.ops.cores import without_torch_threads
from hear_axlstm.ops.cpu_block import CompiledBlock
from hear_axlstm.ops.fuse import fuse_weights
from hear_axlstm.ops.packed_linear import PackedLinear
from hear_axlstm.ops.workspace import Workspace
from tests.helpers.mlstm_blocks import lively_block, outputs_of
from tests.helpers.platforms import posix_only
from tests.helpers.rounding import assert_accurate
from tests.helpers.threads import torch_threads

pytestmark = pytest.mark.skipif(
    not library.is_available() and shutil.which("c++") is None, reason="there is no C++ compiler"
)


def whole_block(block: MLSTMBlock, dtype: torch.dtype) -> CompiledBlock:
    up, weights, down = fuse_weights(block.tensors(), block.heads, dtype)
    packed = [PackedLinear(weight, library.gemm_columns()) for weight in (up, down)]
    return CompiledBlock(1.0 + block.norm.weight, packed[0], weights, packed[1], block.heads)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 5, 129])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_block(tokens: int, threads: int, dtype: torch.dtype) -> None:
    block = lively_block()
    inputs = torch.randn(2, tokens, block.proj_up.in_features)
    found = inputs.clone()
    log_gates = partial(split_gates, input_gate=block.input_gate)
    with torch_threads(threads):
        whole_block(block, dtype)(found, log_gates, Workspace())
    assert_accurate([found], outputs_of(block), [inputs, *block.parameters()], dtype)


@torch.no_grad()
def test_wrong_shapes_are_named() -> None:
    block = lively_block()
    whole = whole_block(block, torch.float32)
    log_gates = partial(split_gates, input_gate=block.input_gate)
    with pytest.raises(ValueError, match=r"shape \(2, 5, 64\), not \[B, S, 192\]"):
        whole(torch.zeros(2, 5, 64), log_gates, Workspace())
    state = [torch.zeros(0)] * 4
    with pytest.raises(ValueError, match=r"shape \(2, 5, 192\), not \[1, S, 192\]"):
        whole(torch.zeros(2, 5, 192), log_gates, Workspace(), state)
    up, weights, down = fuse_weights(block.tensors(), block.heads)
    packed = [PackedLinear(weight, library.gemm_columns()) for weight in (up, down)]
    with pytest.raises(ValueError, match=r"shapes do not match: up \(.*\), norm \(64,\)"):
        CompiledBlock(torch.ones(64), packed[0], weights, packed[1], block.heads)


@torch.no_grad()
@posix_only
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_threads_of_its_own() -> None:
    block, tokens = lively_block(), torch.randn(1, 129, 192)
    whole = whole_block(block, torch.float32)
    log_gates = partial(split_gates, input_gate=block.input_gate)

    def computed() -> Tensor:
        found = tokens.clone()
        without_torch_threads(
            lambda: whole(found, log_gates, Workspace())
        )  # OpenMP does not survive a fork
        return found

    with torch_threads(3):
        expected = computed()
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(computed(), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
