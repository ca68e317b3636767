"""The HEAR API (https://hearbenchmark.com/hear-api.html), and what it does with bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hear_axlstm
from hear_axlstm import get_scene_embeddings, get_timestamp_embeddings, load_model, mean_std
from hear_axlstm.config import PRESETS
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.windows import Budget

RATE = 16_000
SIZES = {"tiny": 960, "small": 1920, "base": 3840}


@pytest.fixture(scope="module")
def model() -> Embedder:
    return load_model()


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_embeds(name: str) -> None:
    model = load_model(f"{name}.random")
    size = SIZES[name.split("_")[1]]
    assert model.sample_rate == RATE
    assert model.scene_embedding_size == model.timestamp_embedding_size == size
    scene = get_scene_embeddings(noise(2, 4000), model)
    steps, times = get_timestamp_embeddings(noise(2, 4000), model)
    assert scene.shape == (2, size) and steps.shape == (2, 6, size) and times.shape == (2, 6)
    assert {t.dtype for t in (scene, steps, times)} == {torch.float32}
    assert scene.isfinite().all() and steps.isfinite().all()


@pytest.mark.parametrize("samples", [1, 100, 239, 240, 639, 640, 641, RATE, RATE + 1, 33_333])
def test_timestamps_are_regular_and_within_the_clip(model: Embedder, samples: int) -> None:
    check_times(get_timestamp_embeddings(noise(1, samples), model)[1][0], samples)


@pytest.mark.slow
def test_timestamps_do_not_drift_over_20_minutes(model: Embedder) -> None:
    samples = 20 * 60 * RATE
    steps, times = get_timestamp_embeddings(noise(1, samples), model)
    check_times(times[0], samples)
    assert steps.isfinite().all()


def check_times(times: torch.Tensor, samples: int) -> None:
    end = 1000.0 * samples / RATE
    assert 0 <= times[0] <= 40 and times[-1] <= end and end - times[-1] < 50
    assert ((times.double().diff() - 40).abs() < 1e-3).all()


def test_scene_is_the_mean_over_steps(model: Embedder) -> None:
    steps, _ = get_timestamp_embeddings(noise(1, 48_000), model)
    # 3 s make 301 frames and 76 steps, the last of which is centered past the end
    assert steps.shape[1] == 75
    scene = get_scene_embeddings(noise(1, 48_000), model)
    torch.testing.assert_close(scene, steps.mean(1), rtol=0, atol=0.1)


def test_a_module_for_evaluation_kits_adds_the_deviation() -> None:
    model = mean_std.load_model("axlstm_tiny")
    assert model.scene_embedding_size == 1920 and model.timestamp_embedding_size == 960
    audio = noise(1, 47_840)  # all of its 75 steps are centered within it
    scene = mean_std.get_scene_embeddings(audio, model)
    steps, _ = mean_std.get_timestamp_embeddings(audio, model)
    expected = torch.cat([steps.mean(1), steps.std(1, correction=0)], 1)
    torch.testing.assert_close(scene, expected, rtol=1e-4, atol=1e-4)


def test_a_window_is_encoded_alone(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = noise(3, 5 * RATE)
    together = get_scene_embeddings(audio, model)
    monkeypatch.setattr("hear_axlstm.embed.windows.BUDGETS", {"cpu": Budget(300.0, 1, 1)})
    one_by_one = torch.cat([get_scene_embeddings(clip[None], model) for clip in audio])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-4)


def test_a_causal_encoder_may_leave_out_the_padding(model: Embedder) -> None:
    assert model.encoder.causal
    log_mel = torch.randn(1, 44, 80)
    padded = torch.nn.functional.pad(log_mel, (0, 0, 0, 156))
    with torch.no_grad():
        short, long = model.encoder(log_mel), model.encoder(padded)[:, : 1 + 11 * 5]
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-4)


def test_loudness_does_not_matter(model: Embedder) -> None:
    quiet, loud = noise(1, RATE), noise(1, RATE) * 8
    torch.testing.assert_close(
        get_scene_embeddings(quiet, model), get_scene_embeddings(loud, model), rtol=0, atol=0.01
    )


@pytest.mark.parametrize("audio", [torch.zeros(1, RATE), torch.ones(1, 1), noise(1, RATE) * 1e14])
def test_odd_audio_gives_finite_embeddings(model: Embedder, audio: torch.Tensor) -> None:
    assert get_scene_embeddings(audio, model).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floats_are_taken(model: Embedder, dtype: torch.dtype) -> None:
    assert get_scene_embeddings(noise(1, RATE).to(dtype), model).dtype == torch.float32


BAD = {
    "rank 1": (torch.zeros(RATE), ValueError, r"audio\[None\]"),
    "rank 3": (torch.zeros(1, 2, RATE), ValueError, "average"),
    "no samples": (torch.zeros(1, 0), ValueError, "at least one"),
    "no clips": (torch.zeros(0, RATE), ValueError, "at least one"),
    "integer": (torch.zeros(1, RATE, dtype=torch.int16), TypeError, "32768"),
    "complex": (torch.zeros(1, RATE, dtype=torch.complex64), TypeError, "real"),
    "NaN": (torch.full((1, RATE), float("nan")), ValueError, "remove NaN"),
    "infinite": (torch.full((1, RATE), float("-inf")), ValueError, "infinite"),
    "overflowing": (torch.full((1, RATE), 1e30), ValueError, "scale"),
    "elsewhere": (torch.zeros(1, RATE, device="meta"), ValueError, "on meta, the model on cpu"),
    "a list": ([[0.0]], TypeError, "torch.Tensor"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_audio_gets_one_clear_error(model: Embedder, kind: str) -> None:
    audio, error, remedy = BAD[kind]
    for function in (get_scene_embeddings, get_timestamp_embeddings):
        with pytest.raises(error, match=remedy):
            function(audio, model)


def test_random_weights_are_seeded_and_asked_for() -> None:
    torch.manual_seed(5)
    first, state = load_model("ssast_small.random"), torch.get_rng_state()
    second = load_model("ssast_small.random")
    assert torch.equal(first.encoder.cls_token, second.encoder.cls_token)
    assert torch.equal(state, torch.get_rng_state())  # the caller's generator is left alone
    with pytest.raises(ValueError, match=r"ssast_small\.audioset.*ssast_small\.random"):
        load_model("ssast_small")
    other = load_model("ssast_small.random", seed=1)
    assert not torch.equal(first.encoder.cls_token, other.encoder.cls_token)


def test_official_validator() -> None:
    command = [str(Path(sys.executable).with_name("hear-validator")), "hear_axlstm"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Looks good!" in result.stdout


def test_completion_lists_what_is_public() -> None:
    assert dir(hear_axlstm) == sorted(hear_axlstm.__all__)
    assert all(getattr(hear_axlstm, name).__doc__ for name in hear_axlstm.__all__)


def test_settings_load_without_torch() -> None:
    code = "import sys, hear_axlstm.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    command = [sys.executable, "-m", "hear_axlstm", "--version"]
    assert hear_axlstm.__version__ in subprocess.check_output(command, text=True)


@pytest.mark.parametrize("call", [get_scene_embeddings, get_timestamp_embeddings])
def test_arguments_in_the_wrong_order_get_one_clear_error(call: Callable) -> None:
    with pytest.raises(TypeError, match="model is Tensor: pass the audio first, then what load"):
        call(load_model(), torch.zeros(1, 800))
