"""Audio files to waveforms, inputs of a command to clips, and waveforms to log-mel.

    io            load_audio: a file's way to mono samples, through the modules of this block
    opening       a path, bytes or an open file as one file; random_access: reads and searches in it
    formats       the recordings in a file, by its first bytes; containers: where each one ends
    decoders      samples of a recording by libsndfile; ffmpeg: by FFmpeg; resample: their rate
    errors        AudioError, and the faults behind it

    sources       every input of a command as clips; clips: a clip, and the interface of sources
    listing       folders and patterns; tables: CSVs; tars: tars; labels: labels in a CSV
    usable        decoded clips, and which of them count; decode_ahead: decoding in threads
    skipped       clips that were left out, and why

    mel           waveform to log-mel

`load_audio` and `AudioError` are public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hear_axlstm.audio.errors import AudioError

if TYPE_CHECKING:
    from hear_axlstm.audio.io import load_audio

__all__ = ["AudioError", "load_audio"]


def __getattr__(name: str) -> Any:
    if name == "load_audio":  # on first use: decoders take time to import
        from hear_axlstm.audio.io import load_audio

        return load_audio
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
