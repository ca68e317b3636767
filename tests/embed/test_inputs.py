"""What people pass to the embedding calls: right things of every form, and mistakes."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from hear_axlstm.audio import AudioError
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.inputs import AudioWarning, Failed, check_clip

RATE = 16_000
SOUND = 0.1 * np.random.default_rng(0).standard_normal(9_000).astype("f4")
DOUBLE = soxr.resample(SOUND, RATE, 2 * RATE).astype("f4")


@pytest.fixture(scope="module")
def model() -> Embedder:
    torch.manual_seed(0)
    return Embedder(ModelConfig(dim=16, depth=1)).eval()


@pytest.fixture(scope="module")
def content() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SOUND, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


FORMS: dict[str, Any] = {
    "Hugging Face dict": {"array": SOUND, "sampling_rate": RATE, "path": None},
    "list of floats in it": {"array": SOUND.tolist(), "sampling_rate": RATE},
    "pair": (SOUND, RATE),
    "pair of another rate": (DOUBLE, 2 * RATE),
    "pair the other way round": (2 * RATE, DOUBLE),
    "stereo pair": (np.stack([SOUND, SOUND], 1), RATE),
    "channels first": (torch.from_numpy(np.stack([SOUND, SOUND])), RATE),
    "decoder": SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(
            data=torch.from_numpy(DOUBLE[None]), sample_rate=2 * RATE
        )
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_samples_with_a_rate(name: str, model: Embedder, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "double.wav", DOUBLE, 2 * RATE, subtype="FLOAT")
    is_double = "other" in name or name == "decoder"
    expected = model.embed_scenes(str(tmp_path / "double.wav") if is_double else SOUND)
    for form in (FORMS[name], [FORMS[name], SOUND]):
        found = model.embed_scenes(form)
        found = found[0] if isinstance(form, list) else found
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_content_and_open_files(model: Embedder, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    expected = model.embed_scenes(SOUND)
    with open(tmp_path / "a.wav", "rb") as file:
        for form in (content, bytearray(content), file, {"bytes": content, "path": None}):
            np.testing.assert_allclose(model.embed_scenes(form), expected, rtol=0, atol=1e-5)  # type: ignore[call-overload]


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "stereo": (np.zeros((9_000, 2), "f4"), ValueError, r"looks like \[samples, channels\]: pass x"),
    "masked": (np.ma.masked_array(SOUND, SOUND > 0), TypeError, "masked array: fill it"),
    "sparse": (torch.from_numpy(SOUND).to_sparse(), TypeError, "sparse"),
    "float8": (torch.zeros(800).to(torch.float8_e4m3fn), TypeError, "float8_e4m3fn: pass float32"),
    "nested": (torch.nested.nested_tensor([torch.zeros(800)]), TypeError, "nested"),
    "list of samples": (SOUND[:9].tolist(), TypeError, "a list of numbers: pass samples as an"),
    "complex": (SOUND.astype("c8"), TypeError, "real samples"),
    "dict": ({"audio": SOUND}, TypeError, "dict with 'audio': pass a dict with 'array' and"),
    "samples without data": ((torch.zeros(800, device="meta"), RATE), ValueError, "without data"),
    "rate in words": ({"array": SOUND, "sampling_rate": "16k"}, TypeError, "rate '16k': pass one"),
    "rate 0": ((SOUND, 0), ValueError, "sample rate 0: pass 1,000 to"),
    "integers": ((np.zeros(800, "i2"), RATE), TypeError, "32768"),
    "text file": (io.StringIO("text"), TypeError, "open it with mode 'rb'"),
    "errors": ([SOUND], ValueError, "errors='ignore': choose one of raise, skip"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_clear_error(name: str, model: Embedder) -> None:
    audio, error, message = MISTAKES[name]
    errors: Any = "ignore" if name == "errors" else "raise"
    with pytest.raises(error, match=message) as caught:
        model.embed_scenes(audio, errors=errors)
    assert "\n" not in str(caught.value)


def test_one_clip_never_costs_the_list(model: Embedder, tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"RIFF")
    clips: list[Any] = [SOUND, tmp_path / "junk.wav", SOUND * np.nan, "gone.wav", SOUND[:8_000]]
    scenes, failed = model.embed_scenes(clips, errors="skip")
    np.testing.assert_allclose(
        scenes, model.embed_scenes([SOUND, SOUND[:8_000]]), rtol=0, atol=1e-5
    )
    assert [(f.index, f.name) for f in failed] == [
        (1, str(tmp_path / "junk.wav")),
        (2, "clip 2"),
        (3, "gone.wav"),
    ]
    assert "magnitude nan" in failed[1].reason and failed[2].reason.startswith("no such file")
    steps, times, failed = model.embed_timestamps(clips, errors="skip")
    assert len(steps) == len(times) == 2 and len(failed) == 3
    scenes, failed = model.embed_scenes(["gone.wav"], errors="skip")
    assert scenes.shape == (0, model.scene_embedding_size) and isinstance(failed[0], Failed)
    with pytest.raises(ValueError, match="for lists of clips"):
        model.embed_scenes("gone.wav", errors="skip")  # type: ignore[call-overload]


def test_clips_in_memory_are_named(model: Embedder) -> None:
    named = io.BytesIO(b"junk")
    named.name = "named.wav"
    clips: list[Any] = [
        b"junk",
        io.BytesIO(b"junk"),
        {"bytes": b"junk", "path": None},
        {"bytes": b"junk", "path": "dog.wav"},
        {"array": SOUND * np.nan, "sampling_rate": RATE, "path": "cat.wav"},
        AudioClip("a.tar/0.wav", b"junk"),
        named,
    ]
    names = ["clip 0", "clip 1", "clip 2", "dog.wav", "cat.wav", "a.tar/0.wav", "named.wav"]
    _, failed = model.embed_scenes(clips, errors="skip")
    assert [clip.name for clip in failed] == names
    for clip, failure in zip(clips, failed, strict=True):
        assert failure.reason.startswith(("not decodable", "has a sample")), failure.reason
        name = failure.name if " " not in failure.name else "clip 1"
        with pytest.raises(ValueError, match=rf"^{name}:? {failure.reason[:9]}"):
            model.embed_scenes([SOUND, clip])


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0,)])
@pytest.mark.filterwarnings("error")
def test_an_empty_recording_has_no_samples(shape: tuple[int, ...], model: Embedder) -> None:
    with pytest.raises(ValueError, match=r"^clip 1 has no samples: pass at least one"):
        model.embed_scenes([SOUND, (np.zeros(shape, "f4"), RATE)])


@pytest.mark.parametrize("batch", [np.full((2, 800), np.nan, "f4"), torch.full((2, 800), np.nan)])
def test_a_batch_without_a_good_row_keeps_its_type(batch: Any, model: Embedder) -> None:
    steps, times, failed = model.embed_timestamps(batch, errors="skip")
    assert type(steps) is type(times) is type(batch) and len(failed) == 2
    assert steps.shape == (0, 0, model.timestamp_embedding_size) and times.shape == (0, 0)


class FailingDecoder:
    """A decoder as of torchcodec."""

    def get_all_samples(self) -> None:
        raise RuntimeError("Invalid data")


def members(path: Path, sounds: list[np.ndarray]) -> list[Any]:
    """Files in a tar, which share the position of the tar."""
    with tarfile.open(path, "w") as tar:
        for number, sound in enumerate(sounds):
            file = io.BytesIO()
            soundfile.write(file, sound, RATE, format="WAV", subtype="FLOAT")
            member = tarfile.TarInfo(f"{number}.wav")
            member.size = len(file.getvalue())
            tar.addfile(member, io.BytesIO(file.getvalue()))
    tar = tarfile.open(path)  # noqa: SIM115
    return [tar.extractfile(member) for member in tar]


@pytest.mark.parametrize("most", [1 << 28, 1])
def test_files_that_share_a_position_keep_their_content(
    most: int, model: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hear_axlstm.embed.clip_loader.MAX_INPUT_BYTES", most)
    sounds = [np.roll(SOUND, shift)[:6_400] for shift in range(64)]
    files = members(tmp_path / "a.tar", sounds)
    files[5] = io.BytesIO(b"junk")
    for _ in range(5):
        found, failed = model.embed_scenes(files, errors="skip")
        assert [(clip.index, clip.name) for clip in failed] == [(5, "clip 5")]
        wanted = model.embed_scenes(sounds[:5] + sounds[6:])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    steps, _ = model.embed_timestamps([files[1]] * 32)
    assert all(np.array_equal(steps[0], other) for other in steps)


def test_a_decoder_is_used_by_one_thread_at_a_time(model: Embedder) -> None:
    class Decoder:
        busy = 0

        def get_all_samples(self) -> SimpleNamespace:
            self.busy += 1
            time.sleep(0.01)
            assert self.busy == 1
            self.busy -= 1
            return SimpleNamespace(data=torch.from_numpy(SOUND[None]), sample_rate=RATE)

    assert len(model.embed_scenes([Decoder()] * 8)) == 8  # type: ignore[call-overload]


class FailingFile(io.BytesIO):
    """A file object of a library with errors of its own."""

    def read(self, count: int | None = -1) -> bytes:
        raise zlib.error("invalid block")


def test_errors_of_other_libraries_cost_one_clip(
    model: Embedder, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)[:-2_000]))
    clips: list[Any] = [SOUND, FailingDecoder(), FailingFile(content), cut]
    scenes, failed = model.embed_scenes(clips, errors="skip")
    assert len(scenes) == 1 and [clip.index for clip in failed] == [1, 2, 3]
    for clip, reason in zip(failed, ("Invalid data", "invalid block", "ended before"), strict=True):
        assert reason in clip.reason
    with pytest.raises(AudioError, match="Invalid data"):
        model.embed_scenes(FailingDecoder())  # type: ignore[call-overload]
    assert capfd.readouterr().err == ""


def test_arrays_of_paths_and_ragged_arrays_are_lists(
    model: Embedder, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    expected = model.embed_scenes([tmp_path / "a.wav"] * 2)
    paths = np.array([str(tmp_path / "a.wav")] * 2)
    for form in (paths, paths.astype(object)):
        np.testing.assert_array_equal(model.embed_scenes(form), expected)
    ragged = np.empty(2, object)
    ragged[:] = [SOUND, SOUND[:8_000]]
    assert model.embed_scenes(ragged).shape == expected.shape


def test_bfloat16_with_a_rate_and_lengths_that_are_shares(model: Embedder) -> None:
    rounded = torch.from_numpy(SOUND).bfloat16()
    found = model.embed_scenes((rounded, RATE))
    np.testing.assert_array_equal(found, model.embed_scenes(rounded.float().numpy()))
    for lengths in ([1.0, 0.5], torch.tensor([1.0, 0.5]), 800):
        with pytest.raises(TypeError, match="one whole number of samples for each clip"):
            model.embed_scenes(np.stack([SOUND, SOUND]), lengths)  # type: ignore[arg-type]


def test_arrays_of_float64_reach_the_device_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple GPUs have no float64. The values are checked before."""
    moved, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a: (moved.append(x.dtype), to(x, *a))[1])
    meta = torch.device("meta")
    found = check_clip(SOUND.astype("f8"), "clip", meta)
    assert found.device == meta and moved == [found.dtype] == [torch.float32]
    with pytest.raises(ValueError, match="clip has a sample of magnitude nan"):
        check_clip(np.array([np.nan]), "clip", meta)
    with pytest.raises(ValueError, match="clip is on cpu, the model on meta"):
        check_clip(torch.from_numpy(SOUND), "clip", meta)


def test_silence_and_short_clips_are_warned_of(model: Embedder) -> None:
    with pytest.warns(AudioWarning, match="2 of 3 clips: clip 1 is silent, clip 2 is shorter"):
        model.embed_scenes([SOUND, np.zeros(800, "f4"), SOUND[:100]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.embed_scenes([SOUND, SOUND[:400]])
        model.embed_scenes(np.zeros(800, "f4"), statistics=(0.0, 1.0))


def test_a_warning_names_the_line_of_the_caller(model: Embedder) -> None:
    from hear_axlstm.finetune.classifier import Classifier, Labels

    silence = np.zeros(800, "f4")
    classifier = Classifier(model.config, Labels(("a", "b"), False)).eval()
    for call in (
        model.embed_scenes,
        model.embed_timestamps,
        model.embed,
        classifier.predict,
        classifier.predict_proba,
    ):
        for audio in (silence, [silence, SOUND], torch.zeros(800)):
            with pytest.warns(AudioWarning, match="silent") as found:
                call(audio)
            assert [warning.filename for warning in found] == [__file__]


def test_embed_is_an_alias(model: Embedder) -> None:
    np.testing.assert_array_equal(model.embed(SOUND), model.embed_scenes(SOUND))
    found, expected = model.embed(SOUND, kind="timestamp"), model.embed_timestamps(SOUND)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
