"""The folders of runs: links to embeddings, wherever the folders are."""

from __future__ import annotations

from pathlib import Path

from hearbench.probes.runs import make_fresh
from tests.helpers.platforms import posix_only


@posix_only
def test_links_lead_to_the_embeddings_from_folders_on_another_disk(tmp_path: Path) -> None:
    embeddings, predictions = tmp_path / "out" / "embeddings", tmp_path / "out" / "predictions"
    embeddings.mkdir(parents=True)
    (embeddings / "test.embeddings.npy").write_bytes(b"rows")
    (tmp_path / "disk" / "deep" / "er").mkdir(parents=True)
    predictions.symlink_to(tmp_path / "disk" / "deep" / "er")
    run = predictions / "task" / "seed0"
    make_fresh(run, embeddings)
    assert (run / "test.embeddings.npy").is_symlink()
    assert (run / "test.embeddings.npy").read_bytes() == b"rows"
