"""The front end against torchaudio's, stored by fixtures/make_mel_fixture.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hear_axlstm.audio.mel import LOG_FLOOR, LogMel, frame_count, standardize

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "mel_torchaudio.npz")


@pytest.mark.parametrize("name", ["chirp", "noise", "chord"])
def test_equals_torchaudio(name: str) -> None:
    found = LogMel()(torch.from_numpy(FIXTURE[name])[None])[0].transpose(0, 1)
    expected = torch.from_numpy(FIXTURE[f"mel_{name}"])
    theirs = torch.log(expected.double() + LOG_FLOOR)
    waveform = torch.from_numpy(FIXTURE[name])[None].double()
    exact = LogMel().double()(waveform)[0].transpose(0, 1)
    # In bins far below the loudest, float32 loses digits: torchaudio's own error says how many.
    rounding = (theirs - exact).abs().max()
    assert rounding < 2e-2
    assert (found - theirs).abs().max() < 4 * rounding + 1e-5


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 200, 201, 399, 16_000, 1_600_123])
def test_every_length_has_its_frames(samples: int) -> None:
    mel = LogMel()
    log_mel = mel(torch.linspace(-1, 1, samples)[None])
    assert log_mel.shape == (1, frame_count(samples, mel.config), 80)
    assert log_mel.isfinite().all()


def test_passes_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    whole = LogMel()(waveform)
    monkeypatch.setattr("hear_axlstm.audio.mel.FRAMES_PER_PASS", 14)
    torch.testing.assert_close(LogMel()(waveform), whole, rtol=0, atol=1e-5)


def test_standardize_works_on_each_whole_clip() -> None:
    log_mel = torch.randn(3, 50, 80) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] - 7
    out = standardize(log_mel)
    torch.testing.assert_close(out.mean((1, 2)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std((1, 2)), torch.ones(3), rtol=0, atol=1e-4)


def test_silence_becomes_zero_not_noise() -> None:
    assert standardize(LogMel()(torch.zeros(1, 16_000))).abs().max() == 0


def test_the_state_of_the_caller_does_not_reach_it() -> None:
    waveform = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    expected = LogMel()(waveform)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            found = LogMel()(waveform)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
