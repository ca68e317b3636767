"""The command `axlstm predict`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hear_axlstm.cli.predict import predict
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.finetune.classifier import Classifier, Labels
from tests.helpers.labeled import RATE, SMALL


def test_predict_writes_a_row_a_file_and_lists_the_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Classifier(SMALL, Labels(("a", "b"), False)).save(tmp_path / "classifier.safetensors", {})
    (tmp_path / "audio").mkdir()
    for name in ("one.wav", "two.flac"):
        soundfile.write(tmp_path / "audio" / name, np.linspace(-0.5, 0.5, RATE), RATE)
    (tmp_path / "audio" / "broken.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "audio" / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(SystemExit) as left:
        predict(tmp_path, (tmp_path / "audio",), out=tmp_path / "out.csv", device="cpu")
    error = capsys.readouterr().err
    assert left.value.code == 3 and "broken.wav: not decodable" in error
    assert "silent.wav: silent" in error and "2 of 4 left out" in error
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["one.wav", "two.flac"]
    for row in rows:
        assert {row["label_1"], row["label_2"]} == {"a", "b"}
        assert float(row["probability_1"]) >= float(row["probability_2"])


def test_predict_replaces_nothing_but_a_csv_that_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Classifier(SMALL, Labels(("a", "b"), False)).save(tmp_path / "classifier.safetensors", {})
    audio, out = tmp_path / "one.wav", tmp_path / "out.csv"
    soundfile.write(audio, np.linspace(-0.5, 0.5, RATE), RATE)
    out.write_text("earlier", "utf-8")
    before = audio.read_bytes()
    with pytest.raises(ValueError, match=r"one\.wav is not a CSV: choose a name that ends in"):
        predict(tmp_path, (audio,), out=audio)
    with pytest.raises(ValueError, match="no input: pass files"):
        predict(tmp_path, (), out=out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode_scenes", interrupt)
        predict(tmp_path, (audio,), out=out, device="cpu")
    assert audio.read_bytes() == before and out.read_text("utf-8") == "earlier"
    assert not list(tmp_path.glob("*.partial"))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
