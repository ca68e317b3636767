"""The encoder, evaluated by mteb itself on a small task in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

mteb = pytest.importorskip("mteb")
pytest.importorskip("datasets")

from hear_axlstm.checkpoints import save  # noqa: E402
from hear_axlstm.checkpoints.authors.published import PUBLISHED  # noqa: E402
from hear_axlstm.integrations.mteb import load_encoder, model_metas  # noqa: E402
from tests.helpers.mteb_task import Tones  # noqa: E402


def test_mteb_evaluates_the_encoder(tmp_path: Path) -> None:
    encoder = load_encoder("axlstm_tiny")
    results = mteb.evaluate(encoder, tasks=[Tones()], cache=None, overwrite_strategy="always")
    assert results.task_results[0].get_score() == 1.0
    assert encoder.mteb_model_meta.embed_dim == 960


def test_other_weights_have_another_revision(tmp_path: Path) -> None:
    encoder, file = load_encoder("axlstm_tiny"), tmp_path / "model.safetensors"
    revision = encoder.mteb_model_meta.revision
    assert load_encoder("axlstm_tiny").mteb_model_meta.revision == revision
    for scale in (0.5, 2.0):
        encoder.model.encoder.norm.weight.data.mul_(scale)
        save(file, encoder.model, {}, torch.float32)
        found = load_encoder(str(file)).mteb_model_meta.revision
        assert found != revision
        revision = found
    encoder.model.config = replace(encoder.model.config, pooling="mean_std")
    save(file, encoder.model, {}, torch.float32)
    assert load_encoder(str(file)).mteb_model_meta.revision != revision


def test_all_named_weights_have_metadata() -> None:
    metas = {meta.name.partition("/")[2]: meta for meta in model_metas()}
    assert metas.keys() == {*PUBLISHED, "axlstm_tiny.open36h", "ssast_tiny.open7h"}
    assert metas["axlstm_base.audioset"].license == "mit"
    assert metas["axlstm_base.audioset"].embed_dim == 3840
    assert "AudioSet" in metas["axlstm_base.audioset"].training_datasets
    shipped = metas["axlstm_tiny.open36h"]
    assert shipped.license == load_encoder().mteb_model_meta.license == "cc-by-sa-4.0"
    assert shipped.n_parameters == load_encoder().mteb_model_meta.n_parameters
