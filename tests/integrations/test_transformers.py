"""AutoModel and AutoFeatureExtractor round trips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from hear_axlstm import load_model  # noqa: E402
from hear_axlstm.integrations.transformers import (  # noqa: E402
    AxLSTMFeatureExtractor,
    AxLSTMModel,
)


def test_a_saved_model_gives_equal_embeddings(tmp_path: Path) -> None:
    model = AxLSTMModel.from_hear_axlstm("axlstm_tiny")
    model.save_pretrained(tmp_path)
    AxLSTMFeatureExtractor().save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(n).astype(np.float32) for n in (16_000, 40_000)]
    with torch.no_grad():
        found = loaded(**extractor(clips, sampling_rate=16_000))
    np.testing.assert_allclose(
        found.pooler_output.numpy(), load_model().embed(clips), rtol=1e-4, atol=1e-4
    )
    assert found.last_hidden_state.shape == (2, 63, loaded.config.hidden_size)
    assert (found.last_hidden_state[0, 26:] == 0).all()
    assert (tmp_path / "transformers.py").is_file(), "the code goes with the weights"


def test_the_pooling_is_saved(tmp_path: Path) -> None:
    AxLSTMModel.from_hear_axlstm("axlstm_tiny", pooling="mean_std").save_pretrained(tmp_path)
    audio = 0.1 * torch.randn(1, 16_000)
    with torch.no_grad():
        found = transformers.AutoModel.from_pretrained(tmp_path)(audio)
    expected = load_model(pooling="mean_std").embed(audio)
    torch.testing.assert_close(found.pooler_output, expected, rtol=1e-4, atol=1e-4)


def test_clips_may_be_padded_on_the_left() -> None:
    model = AxLSTMModel.from_hear_axlstm("axlstm_tiny.random")
    rng = np.random.default_rng(0)
    clips = [0.1 * rng.standard_normal(n).astype(np.float32) for n in (4_000, 8_000)]
    with torch.no_grad():
        right = model(**AxLSTMFeatureExtractor()(clips))
        left = model(**AxLSTMFeatureExtractor(padding_side="left")(clips))
    assert torch.equal(left.pooler_output, right.pooler_output)
    assert torch.equal(left.last_hidden_state, right.last_hidden_state)


def test_a_model_around_it_keeps_its_weights() -> None:
    def around(seed: int) -> torch.nn.ModuleDict:
        encoder = AxLSTMModel.from_hear_axlstm("axlstm_tiny.random", seed=seed)
        return torch.nn.ModuleDict({"encoder": encoder, "head": torch.nn.Linear(960, 2)})

    one, other = around(0), around(1)
    state = one.state_dict()
    assert state.keys() == {name for name, _ in one.named_parameters()}
    other.load_state_dict(state)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, state[name])


def test_options_of_load_model_hold() -> None:
    model = AxLSTMModel.from_hear_axlstm("axlstm_tiny.random", precision="bfloat16")
    assert model.embedder.precision == "bfloat16"


def test_another_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="resample the audio to 16000 Hz"):
        AxLSTMFeatureExtractor()(np.zeros(100, np.float32), sampling_rate=44_100)
