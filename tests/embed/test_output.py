"""Outputs of `axlstm embed`: files of others in their place are neither replaced nor removed."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.errors import AudioError
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed import files
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.files import embed_files
from hear_axlstm.embed.output import Output, OutputError
from hear_axlstm.files import sole_writer


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, 8_000)
    soundfile.write(tmp_path / "clip.wav", noise, 16_000)
    return tmp_path / "clip.wav"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(ModelConfig(dim=16, depth=1))


@pytest.mark.parametrize("name", ["rec", "rec.npy"])
def test_a_folder_of_the_user_called_parts_is_never_removed(
    name: str, embedder: Embedder, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / name
    parts = out / "parts" if name == "rec" else tmp_path / "rec.npy.parts"
    parts.mkdir(parents=True)
    (parts / "drums.wav").write_bytes(clip.read_bytes())
    with pytest.raises(OutputError, match=r"parts was not made by axlstm embed.*e\.g\. drums"):
        embed_files([clip], out, embedder)
    (parts / "request.json").write_text('{"of": "another program"}', "utf-8")
    with pytest.raises(OutputError, match="was not made by axlstm embed"):
        embed_files([clip], out, embedder)
    assert [path.name for path in sorted(parts.iterdir())] == ["drums.wav", "request.json"]
    parts.rename(tmp_path / "mine")
    embed_files([clip], out, embedder)
    (tmp_path / "mine").rename(parts)
    embed_files([clip], out, embedder)  # nothing to do
    with pytest.raises(OutputError, match="was not made by axlstm embed"):
        stamp = out / "embed.json" if name == "rec" else tmp_path / "rec.npy.embed.json"
        stamp.write_text(stamp.read_text("utf-8").replace('"bytes": ', '"bytes": 1'), "utf-8")
        embed_files([clip], out, embedder)
    assert (parts / "drums.wav").exists()


def test_other_files_beside_embeddings_stay(
    embedder: Embedder, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rec"
    embed_files([clip.parent], out, embedder)
    (out / "scene" / ".DS_Store").write_text("of a file manager", "utf-8")
    (out / "scene" / "notes").mkdir()
    (out / "scene" / "notes" / "mine.txt").touch()
    np.save(out / "scene" / "mean.npy", np.zeros(3))
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_share", lambda *_: 1 / 0)
        embed_files([clip.parent], out, embedder)  # nothing to do
    (tmp_path / "second.wav").write_bytes(clip.read_bytes())
    embed_files([clip.parent], out, embedder)
    names = {path.name for path in (out / "scene").iterdir()}
    assert names == {".DS_Store", "notes", "mean.npy", "clip.wav.npy", "second.wav.npy"}
    assert (out / "scene" / "notes" / "mine.txt").exists()
    (tmp_path / "second.wav").unlink()
    embed_files([clip.parent], out, embedder)
    names = {path.name for path in (out / "scene").iterdir()}
    assert names == {".DS_Store", "notes", "mean.npy", "clip.wav.npy"}


def test_an_edited_index_removes_nothing_outside(
    embedder: Embedder, clip: Path, tmp_path: Path
) -> None:
    out, others = tmp_path / "rec", [tmp_path / "a.npy", tmp_path / "b.npy"]
    embed_files([clip], out, embedder)
    with open(out / "index.csv", "a", encoding="utf-8") as file:
        file.write(f"a,../../a.npy,1\nb,{others[1]},1\nc\n")
    for path in (*others, clip):
        path.write_bytes(clip.read_bytes())
    embed_files([clip], out, embedder)
    assert all(path.exists() for path in others)


def test_parts_are_removed_also_after_the_stamp(
    embedder: Embedder, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rec.npy"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Output, "remove_parts", lambda _: 1 / 0)
        embed_files([clip], out, embedder)
    assert (tmp_path / "rec.npy.parts").exists()
    embed_files([clip], out, embedder)
    assert not (tmp_path / "rec.npy.parts").exists()


def test_after_an_error_of_the_system_only_what_failed_is_tried_again(
    embedder: Embedder, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "second.wav").write_bytes(clip.read_bytes())
    decode, decoded = AudioClip.decode, []

    def fail(clip: AudioClip, *args: object) -> np.ndarray:
        if clip.id == "second.wav":
            raise AudioError("not readable") from OSError(errno.ESTALE, "Stale file handle")
        return decode(clip, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "CLIPS_PER_SHARD", 1)
    with monkeypatch.context() as patch:
        patch.setattr(AudioClip, "decode", fail)
        assert embed_files([tmp_path], tmp_path / "rec.npy", embedder).skipped == {
            "not readable": 1
        }
    monkeypatch.setattr(
        AudioClip, "decode", lambda c, *args: decoded.append(c.id) or decode(c, *args)
    )
    assert embed_files([tmp_path], tmp_path / "rec.npy", embedder).clips == 2
    assert decoded == ["second.wav"] and not (tmp_path / "rec.npy.parts").exists()


def test_a_report_or_stamp_of_another_program_is_not_replaced(
    embedder: Embedder, clip: Path, tmp_path: Path
) -> None:
    for name, text in (("report.csv", "month,sales\n"), ("embed.json", '{"theme": "dark"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text, "utf-8")
        (tmp_path / name).rename(tmp_path / "out")
        with pytest.raises(OutputError, match="out exists and was not made by axlstm embed"):
            embed_files([clip], tmp_path / "out", embedder)
        assert (tmp_path / "out" / name).read_text("utf-8") == text
        (tmp_path / "out").rename(tmp_path / f"kept-{name}")


def test_parts_are_removed_while_they_are_locked_and_keep_files_of_others(
    embedder: Embedder, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, remove = tmp_path / "o.npy.parts", Output.remove_parts

    def remove_after_a_look(output: Output) -> None:
        with pytest.raises(BlockingIOError), sole_writer(parts):
            pass
        (parts / "notes.txt").write_text("precious", "utf-8")
        remove(output)

    monkeypatch.setattr(Output, "remove_parts", remove_after_a_look)
    embed_files([clip], tmp_path / "o.npy", embedder)
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]
