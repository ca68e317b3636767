"""Audio files, listings of audio files, waveforms and log-mel spectrograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hear_axlstm.audio.errors import AudioError
    from hear_axlstm.audio.io import load_audio

__all__ = ["AudioError", "load_audio"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use: decoders take time to import
        from hear_axlstm.audio import io

        return getattr(io, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
