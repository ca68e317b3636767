"""Any HEAR module, evaluated by mteb itself on a small task in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

import mteb  # noqa: E402

from hearbench.integrations.mteb import load_encoder  # noqa: E402
from tests.helpers import system_checkpoints as write  # noqa: E402
from tests.helpers.mteb_task import Tones  # noqa: E402


def test_mteb_evaluates_an_adapter(tmp_path: Path) -> None:
    encoder = load_encoder(f"passt@{write.passt(tmp_path)}")
    results = mteb.evaluate(encoder, tasks=[Tones()], cache=None, overwrite_strategy="always")
    assert results.task_results[0].get_score() == 1.0
    assert encoder.mteb_model_meta.embed_dim == 591


def test_results_of_another_checkpoint_of_that_name_are_not_reused(tmp_path: Path) -> None:
    metas = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        path = write.beats(tmp_path / str(seed), seed=seed)
        metas += [load_encoder(f"beats@{path}").mteb_model_meta for _ in range(2)]
    assert len({meta.name for meta in metas}) == 1
    revisions = [meta.revision for meta in metas]
    assert revisions[0] == revisions[1] != revisions[2] == revisions[3]


def test_a_tensorflow_module_gets_its_own_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        sample_rate, scene_embedding_size, timestamp_embedding_size = 16_000, 2, 2

    convert = SimpleNamespace(Module=Module, convert_to_tensor=lambda audio: ("converted", audio))
    monkeypatch.setitem(sys.modules, "tensorflow", convert)
    code = """
        import sys
        def load_model(path=""):
            return sys.modules["tensorflow"].Module()
        def get_scene_embeddings(audio, model):
            kind, clips = audio
            assert kind == "converted"
            return clips[:, :2].astype("float64")
        get_timestamp_embeddings = None
    """
    (tmp_path / "module_of_tensorflow.py").write_text(dedent(code), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = load_encoder("module_of_tensorflow")
    rows = [{"audio": {"array": np.arange(8_000, dtype="f4"), "sampling_rate": 16_000}}]
    found = encoder.encode(torch.utils.data.DataLoader(rows), show_progress_bar=False)
    assert found.dtype == np.float32 and found.tolist() == [[0.0, 1.0]]


def test_neighbors_in_a_batch_change_nothing() -> None:
    encoder = load_encoder("logmel")
    rng = np.random.default_rng(0)
    lengths = (8_000, 16_000, 8_000, 1)
    rows = [
        {"audio": {"array": rng.normal(size=n).astype(np.float32), "sampling_rate": 16_000}}
        for n in lengths
    ]

    def embed(rows: list) -> np.ndarray:
        loader = torch.utils.data.DataLoader(rows, batch_size=4)
        return encoder.encode(loader, show_progress_bar=False)

    alone = np.concatenate([embed([row]) for row in rows])
    np.testing.assert_allclose(embed(rows), alone, rtol=1e-5, atol=1e-5)
