"""Decoding ahead of use."""

from __future__ import annotations

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.decode_ahead import decode_ahead


def test_results_come_in_order_with_their_keys() -> None:
    clips = [(n, AudioClip(str(n), "")) for n in range(20)]
    found = decode_ahead(clips, 16_000)  # each is skipped: no such file
    assert [(key, item.id) for key, item in found] == [(n, str(n)) for n in range(20)]
