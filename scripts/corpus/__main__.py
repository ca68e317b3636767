"""Rebuild the open corpus: `python -m scripts.corpus fetch|collect|overlaps`; see README.md."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tyro
from tqdm import tqdm

from scripts.corpus import overlaps as search
from scripts.corpus.clips import UnusableError, Wave, decode
from scripts.corpus.collect import Collector
from scripts.corpus.collect import collect as collect_sources
from scripts.corpus.repositories import FetchError, is_audio
from scripts.corpus.repositories import fetch as fetch_one
from scripts.corpus.reserved import read_reserved
from scripts.corpus.sources import (
    ACCEPTED,
    FILES,
    KINDS,
    SOURCES,
    read_sources,
)

LEAST_AGREEING = 12
"""Number of matching pairs from which `overlaps` reports a clip; some reach it by chance."""
COPY = 0.9
"""Correlation from which `overlaps` counts a suspect as a copy."""


def fetch(
    repositories: tyro.conf.Positional[Path],
    sources: Path = SOURCES,
    kinds: tuple[str, ...] = KINDS,
) -> None:
    """Download every repository of the list at its revision. Run again to resume.

    Args:
        repositories: folder to download into, about 14 GB.
        sources: the list.
        kinds: kinds of audio to download for.
    """
    rows = read_sources(sources, kinds=kinds)
    failed = []
    for name, revision in tqdm(dict.fromkeys((s.repository, s.revision) for s in rows)):
        try:
            fetch_one(name, revision, repositories)
        except FetchError as error:
            failed.append(str(error))
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} not fetched; run again to retry:", *failed]))


def collect(
    repositories: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    sources: Path = SOURCES,
    files: Path = FILES,
    kinds: tuple[str, ...] = KINDS,
    license_classes: tuple[str, ...] = ACCEPTED,
) -> None:
    """Make the corpus from fetched repositories.

    Args:
        repositories: folder that `fetch` downloaded into.
        out: new folder for audio/KIND/*.flac, manifest.csv, skipped.csv and summary.csv.
        sources: the list.
        files: licenses and exclusions of single files.
        kinds: kinds of audio to take.
        license_classes: classes to take; everything else is left out and counted.
    """
    rows = read_sources(sources, files, kinds)
    collector = Collector(out, read_reserved(), license_classes)
    missing = collect_sources(rows, repositories, collector)
    hours = sum(float(str(clip["seconds"])) for clip in collector.clips) / 3600
    print(f"{out}: {len(collector.clips):,} clips, {hours:.1f} h; "
          f"{len(collector.skipped):,} files or pieces left out, see skipped.csv")  # fmt: skip
    if missing:
        raise SystemExit(f"not fetched, and missing from the corpus: {', '.join(missing)}")


def overlaps(
    corpus: tyro.conf.Positional[Path],
    evaluation: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("overlaps.csv"),
) -> None:
    """List the clips of a corpus that may contain evaluation audio.

    Args:
        corpus: folder of audio.
        evaluation: folders of evaluation audio.
        out: CSV of suspects, for listening.
    """
    index = search.Index(_waves(evaluation))
    correlations: list[float] = []
    with out.open("w", buffering=1, newline="", encoding="utf-8") as file:  # whole if stopped
        rows = csv.writer(file)
        rows.writerow(("clip", "evaluation clip", "agreeing pairs", "pairs", "correlation"))
        for name, wave in _waves((corpus,)):
            match = index.best(wave)
            if match is not None and match.agreeing >= LEAST_AGREEING:
                original = decode(Path(match.name).read_bytes())
                correlations.append(search.correlation(wave, original))
                row = (name, match.name, match.agreeing, match.pairs)
                rows.writerow((*row, f"{correlations[-1]:.3f}"))
    copies = sum(value >= COPY for value in correlations)
    print(f"{out}: {len(correlations)} suspects, {copies} with a correlation of {COPY} or more")


def _waves(folders: Sequence[Path]) -> Iterator[tuple[str, Wave]]:
    """Path and audio of every file below the folders that can be decoded."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*"))]
    audio = [path for path in paths if path.is_file() and is_audio(path.name)]
    if not audio:
        raise SystemExit(f"no audio in {', '.join(map(str, folders))}")
    for path in tqdm(audio, unit="file"):
        try:
            yield str(path), decode(path.read_bytes())
        except UnusableError as error:
            print(f"{path}: {error}", file=sys.stderr)


COMMANDS: dict[str, Callable[..., None]] = {
    "fetch": fetch,
    "collect": collect,
    "overlaps": overlaps,
}


def main() -> None:
    """Entry point of `python -m scripts.corpus`."""
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="python -m scripts.corpus", description=__doc__
    )


if __name__ == "__main__":
    main()
