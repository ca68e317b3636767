"""The encoder by X-ARES' own checker."""

from __future__ import annotations

import pytest
import torch

checker = pytest.importorskip("xares.audio_encoder_checker")

from hear_axlstm import get_timestamp_embeddings  # noqa: E402
from hear_axlstm.integrations.xares import AxLSTMEncoder  # noqa: E402


def test_the_checker_accepts_the_encoder() -> None:
    encoder = AxLSTMEncoder()
    assert checker.check_audio_encoder(encoder)
    audio = 0.1 * torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0))
    found = encoder(audio)
    assert torch.equal(found, get_timestamp_embeddings(audio, encoder.model)[0])
    assert found.shape[1] == round(3000 / encoder.hop_size_in_ms)
