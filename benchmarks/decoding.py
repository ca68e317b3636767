"""`python -m benchmarks.decoding SOURCE...`: speed of decoding, as for `axlstm embed`."""

from __future__ import annotations

import time

import tyro

from benchmarks.tables import show
from hear_axlstm.audio.decode_ahead import decode_ahead, decoding_threads
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import open_source
from hear_axlstm.audio.usable import Decoded
from hear_axlstm.config import MelConfig
from hear_axlstm.progress import Progress


def main(sources: tyro.conf.Positional[tuple[str, ...]]) -> None:
    """Decode clips once, resampled to the model's rate, and print a Markdown table.

    Args:
        sources: Files, folders, patterns or lists, as in `axlstm embed`.
    """
    rate, samples = MelConfig().sample_rate, 0
    skipped: list[Skipped] = []
    try:
        jobs = ((clip, clip) for clip in open_source(sources).clips())
    except ValueError as error:  # SourceError, TableError
        raise SystemExit(f"error: {error}") from None
    start = time.perf_counter()
    for _, decoded in Progress(decode_ahead(jobs, rate), desc="decoding", unit="clip"):
        if isinstance(decoded, Decoded):
            samples += decoded.waveform.size
        else:
            skipped.append(decoded)
    seconds = time.perf_counter() - start
    if not samples:
        first = skipped[0] if skipped else Skipped("tars", "without audio files")
        raise SystemExit(f"error: no clip could be decoded, e.g. {first.id}: {first.reason}")
    columns = ("hours", "clips skipped", "seconds", "x real time", "GB/s of float32 samples")
    speeds = f"{samples / rate / seconds:,.0f}", f"{4 * samples / seconds / 1e9:.2f}"
    row = (f"{samples / rate / 3600:.1f}", str(len(skipped)), f"{seconds:.0f}", *speeds)
    show(f"Decoded by {decoding_threads()} threads:", columns, [row])


if __name__ == "__main__":
    tyro.cli(main)
