"""The front ends against torchaudio's stored output, and against plain float64 formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hearbench.systems.parts.chunks import reflected_to
from hearbench.systems.parts.fbank import HANN, POVEY, KaldiFbank
from hearbench.systems.parts.htk_mel import LOG_FLOOR, HtkLogMel
from hearbench.systems.passt import PasstMel

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "mel_torchaudio.npz")


def kaldi_filters(n_fft: int, rate: int, low: float, high: float) -> np.ndarray:
    """128 triangles in mel, bin by bin; the Nyquist bin belongs to none."""

    def mel(hz: float) -> float:
        return 1127 * np.log(1 + hz / 700)

    step = (mel(high) - mel(low)) / 129
    filters = np.zeros((128, n_fft // 2 + 1))
    for index in range(128):
        center = mel(low) + (index + 1) * step
        for k in range(n_fft // 2):
            filters[index, k] = max(0.0, 1 - abs(mel(k * rate / n_fft) - center) / step)
    return filters


@pytest.mark.parametrize(("power", "exponent"), [(HANN, 1.0), (POVEY, 0.85)])
def test_kaldi_fbank(power: float, exponent: float) -> None:
    audio = np.random.default_rng(0).normal(size=16_000 // 4) * 0.1 + 0.05
    found = KaldiFbank(power)(torch.from_numpy(audio)[None].float())[0].numpy()
    assert len(found) == 1 + (len(audio) - 400) // 160
    filters = kaldi_filters(512, 16_000, 20.0, 8_000.0)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** exponent
    for index in (0, 7, len(found) - 1):
        frame = audio[160 * index : 160 * index + 400]
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        energies = filters @ np.abs(np.fft.rfft(frame * window, 512)) ** 2
        expected = np.log(np.maximum(energies, 2.0**-23))
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=1e-3)


def test_passt_mel() -> None:
    audio = np.random.default_rng(0).normal(size=8_000) * 0.1
    found = PasstMel()(torch.from_numpy(audio)[None].float())[0, 0].numpy()  # [128, T]
    emphasized = audio[1:] - 0.97 * audio[:-1]
    padded = np.pad(emphasized, 512, mode="reflect")
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799), 112)
    filters = kaldi_filters(1024, 32_000, 0.0, 15_000.0)
    assert found.shape == (128, 1 + 7_999 // 320)
    for index in (0, 5, 24):
        frame = padded[320 * index : 320 * index + 1024] * window
        mel = filters @ np.abs(np.fft.rfft(frame)) ** 2
        expected = (np.log(mel + 1e-5) + 4.5) / 5
        np.testing.assert_allclose(found[:, index], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["chirp", "noise", "chord"])
def test_htk_log_mel_equals_torchaudio(name: str) -> None:
    waveform = torch.from_numpy(FIXTURE[name])[None]
    found = HtkLogMel()(waveform)[0].T
    theirs = torch.log(torch.from_numpy(FIXTURE[f"mel_{name}"]).double() + LOG_FLOOR)
    exact = HtkLogMel().double()(waveform.double())[0].T
    # In bins far below the loudest, float32 loses digits: torchaudio's own error says how many.
    rounding = (theirs - exact).abs().max()
    assert rounding < 2e-2
    assert (found - theirs).abs().max() < 4 * rounding + 1e-5


def test_passes_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    audio = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    for front_end in (KaldiFbank(HANN), HtkLogMel()):
        whole = front_end(audio)
        with monkeypatch.context() as patch:
            patch.setattr(f"{type(front_end).__module__}.FRAMES_AT_ONCE", 14)
            torch.testing.assert_close(front_end(audio), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 3, 99, 101, 200, 201])
def test_reflection_goes_back_and_forth_like_numpy(frames: int) -> None:
    values = np.random.default_rng(0).normal(size=(1, frames, 2))
    filling = -frames % 200
    expected = np.pad(values, ((0, 0), (0, filling), (0, 0)), mode="reflect")
    assert np.array_equal(reflected_to(torch.from_numpy(values), 200).numpy(), expected)
