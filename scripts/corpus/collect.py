"""Make a corpus from repositories: 16 kHz mono clips of at most 10 s, and a manifest.

Files of a source are visited in an order that depends on a hash of repository and path alone, so
that a source's share is spread over the whole repository. A second run with the same revisions and
package versions writes the same bytes.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from scripts.corpus.clips import (
    JOIN_BELOW,
    RATE,
    SHORTEST_CLIP,
    Sound,
    UnusableError,
    Wave,
    check,
    cut,
    decode,
    digest,
    encode,
    faded,
    join,
    trim,
)
from scripts.corpus.repositories import Tree, open_tree
from scripts.corpus.reserved import ID_DIGITS, has_reserved_name
from scripts.corpus.sources import ACCEPTED, License, Source, combined

MANIFEST = (
    "clip", "seconds", "kind", "repository", "revision", "license", "license_class", "original",
)  # fmt: skip
SKIPPED = ("repository", "path", "reason")
TYPICAL_GAP = 0.2  # seconds that a joined sound adds to a source's share


class Collector:
    """Writes clips below a folder, and records which files were taken and left out.

    Args:
        out: folder of the corpus.
        reserved: blob ids of evaluation audio, `ID_DIGITS` digits each.
        accepted: license classes to take.
    """

    def __init__(
        self,
        out: Path,
        reserved: Collection[str] = frozenset(),
        accepted: Collection[str] = ACCEPTED,
    ) -> None:
        self.out = out
        self.reserved, self.accepted = reserved, accepted
        self.clips: list[dict[str, object]] = []
        self.skipped: list[tuple[str, str, str]] = []
        self._taken: set[str] = set()
        self._serial: Counter[tuple[str, str]] = Counter()

    def add(self, source: Source, tree: Tree) -> float:
        """Take a source's share.

        Returns:
            Seconds of audio written.
        """
        seconds = pooled = 0.0
        pool: list[Sound] = []
        for path, blob, terms in self._files(source, tree):
            if seconds + pooled >= source.max_seconds:
                break
            sound = self._sound(source, tree, path, blob, terms)
            if sound is None:
                continue
            if sound.seconds < JOIN_BELOW:
                pool.append(replace(sound, wave=faded(sound.wave)))
                pooled += sound.seconds + TYPICAL_GAP
                continue
            for piece in self._pieces(source, sound):
                if seconds + pooled >= source.max_seconds:
                    break
                seconds += self._write(source, piece.wave, [piece])
        return seconds + self._write_joined(source, pool, source.max_seconds - seconds)

    def _files(self, source: Source, tree: Tree) -> Iterator[tuple[str, str, License]]:
        """Path, blob and license of each of the source's files that may be taken."""
        blobs = tree.blobs()
        for path in sorted(blobs, key=lambda path: digest(source.repository, path)):
            blob, terms = blobs[path], source.license_of(path)
            if terms is None:
                continue
            if terms.license_class not in self.accepted:
                self._skip(source, path, f"license class {terms.license_class}")
            elif has_reserved_name(path):
                self._skip(source, path, "reserved: name")
            elif blob[:ID_DIGITS] in self.reserved:
                self._skip(source, path, "reserved: content")
            elif blob in self._taken:
                self._skip(source, path, "copy")
            else:
                yield path, blob, terms

    def _sound(
        self, source: Source, tree: Tree, path: str, blob: str, terms: License
    ) -> Sound | None:
        """A file's audio between silences, or None if it is unusable."""
        self._taken.add(blob)
        data = tree.read(path, blob)
        try:
            if data is None:
                raise UnusableError("missing or too large")
            wave = decode(data)
            start, end = trim(wave)
            check(wave[start:end])
        except UnusableError as error:
            self._skip(source, path, str(error))
            return None
        return Sound(path, terms, start / RATE, wave[start:end])

    def _pieces(self, source: Source, sound: Sound) -> Iterator[Sound]:
        for start, end in cut(len(sound.wave), source.pieces):
            begin = sound.start + start / RATE
            piece = replace(sound, start=begin, wave=sound.wave[start:end])
            try:
                check(piece.wave)
            except UnusableError as error:
                self._skip(source, piece.origin, str(error))
                continue
            yield piece

    def _write_joined(self, source: Source, pool: list[Sound], left: float) -> float:
        """Write the short sounds of a source, folder by folder."""
        name, seconds = source.repository, 0.0
        pool.sort(key=lambda s: (digest(name, s.path.rpartition("/")[0]), digest(name, s.path)))
        for wave, sounds in join(pool, name):
            if seconds >= left:
                break
            if len(wave) >= SHORTEST_CLIP * RATE:
                seconds += self._write(source, wave, sounds)
        return seconds

    def _write(self, source: Source, wave: Wave, sounds: list[Sound]) -> float:
        stem = re.sub(r"[^a-z0-9]+", "-", source.repository.lower()).strip("-")
        self._serial[source.kind, stem] += 1
        serial = self._serial[source.kind, stem]
        clip = f"audio/{source.kind}/{source.kind[0]}_{stem}_{serial:05d}.flac"
        path = self.out / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(wave))
        seconds = len(wave) / RATE
        terms = combined([sound.license for sound in sounds])
        self.clips.append(
            {
                "clip": clip,
                "seconds": round(seconds, 3),
                "kind": source.kind,
                "repository": source.repository,
                "revision": source.revision,
                "license": terms.name,
                "license_class": terms.license_class,
                "original": " | ".join(sound.origin for sound in sounds),
            }
        )
        return seconds

    def _skip(self, source: Source, path: str, reason: str) -> None:
        self.skipped.append((source.repository, path, reason))

    def write_tables(self) -> None:
        """Write manifest.csv, skipped.csv and summary.csv."""
        with _table(self.out / "manifest.csv") as file:
            rows = csv.DictWriter(file, MANIFEST)
            rows.writeheader()
            rows.writerows(self.clips)
        with _table(self.out / "skipped.csv") as file:
            csv.writer(file).writerows([SKIPPED, *self.skipped])
        with _table(self.out / "summary.csv") as file:
            csv.writer(file).writerows(summary(self.clips))


def _table(path: Path) -> TextIO:
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def summary(clips: Sequence[Mapping[str, object]]) -> list[tuple[object, ...]]:
    """Clips and minutes by kind, repository and license, as a model card lists them."""
    seconds: defaultdict[tuple[object, ...], float] = defaultdict(float)
    count: Counter[tuple[object, ...]] = Counter()
    for clip in clips:
        key = clip["kind"], clip["repository"], clip["license"]
        seconds[key] += float(str(clip["seconds"]))
        count[key] += 1
    rows = [(*key, count[key], round(seconds[key] / 60, 1)) for key in sorted(seconds)]
    return [("kind", "repository", "license", "clips", "minutes"), *rows]


def collect(sources: Sequence[Source], repositories: Path, collector: Collector) -> list[str]:
    """Take every source's share and write the tables.

    Returns:
        Repositories that have not been fetched.

    Raises:
        FileExistsError: if the corpus' folder is not empty.
    """
    if collector.out.is_dir() and any(collector.out.iterdir()):
        raise FileExistsError(f"{collector.out} is not empty: give a new folder for the corpus")
    missing = []
    for source in (progress := tqdm(sources, unit="source")):
        progress.set_postfix_str(f"{source.repository} {source.kind}")
        try:
            with open_tree(source.repository, source.revision, repositories) as tree:
                collector.add(source, tree)
        except FileNotFoundError:
            missing.append(source.repository)
    collector.out.mkdir(parents=True, exist_ok=True)
    collector.write_tables()
    return missing
