"""FLOPs by formula against torch's counter on the real model."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hear_axlstm.config import ModelConfig
from hear_axlstm.models import mlstm
from hear_axlstm.models.mlstm import MLSTMBlock
from hear_axlstm.models.pretraining import MaskedPatchModel, training_flops
from hear_axlstm.ops import torch_impl
from hear_axlstm.ops.contract import MAP_WIDTH


def counted(model: MaskedPatchModel) -> int:
    """FLOPs of one clip, forward and backward, as torch sees them."""
    mel = torch.randn(1, model.config.window_frames, model.config.mel.n_mels)
    mask = torch.rand(1, model.config.grid[0] * model.config.grid[1]) < 0.5
    torch_alone = torch.backends.mkldnn.flags(enabled=False)  # oneDNN's products are not counted
    with torch_alone, FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(mel, mask).backward()
    return counter.get_total_flops()


def not_needed(model: MaskedPatchModel) -> int:
    """FLOPs of the AxLSTM as it is written, above what the mathematics needs."""
    config = model.config
    tokens, inner = config.grid[0] * config.grid[1] + 1, MLSTMBlock.inner_dim(config)
    block = model.encoder.blocks[0]
    assert isinstance(block, MLSTMBlock)
    zeros_of_maps = 3 * 3 * 2 * tokens * inner * MAP_WIDTH * (block.q_proj.group - 1)
    pairs = sum(
        (rows.stop - rows.start) * seen.stop for rows, seen in torch_impl.row_blocks(tokens)
    )
    causal = tokens * (tokens + 1) // 2
    one_product = 2 * inner
    zeros_of_cell = 6 * one_product * (pairs - causal)
    recomputed_scores = one_product * pairs
    return config.depth * (zeros_of_maps + zeros_of_cell + recomputed_scores)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(dim=64, depth=2),
        ModelConfig(dim=48, depth=3, expansion=2, patch=(4, 8), input_gate="sigmoid", flip=True),
        ModelConfig(dim=96, depth=1, heads=2, expansion=4, patch=(8, 16)),
    ],
)
def test_axlstm_needs_what_torch_counts_but_for_zeros_and_recomputation(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlstm, "is_short", lambda *_: True)
    model = MaskedPatchModel(config)
    for block in model.encoder.blocks:
        block.use_mixer = False
    assert counted(model) - not_needed(model) == training_flops(config)


@pytest.mark.parametrize("patch", [(4, 16), (8, 16)])
def test_ssast_needs_what_torch_counts(patch: tuple[int, int]) -> None:
    config = ModelConfig("ssast", dim=64, depth=2, patch=patch, mask_keeps_position=True)
    assert counted(MaskedPatchModel(config)) == training_flops(config)
