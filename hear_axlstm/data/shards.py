"""Arrays of many clips on disk, shard by shard: the store under `axlstm pack` and `axlstm embed`.

A shard is the unit of work: a file of numbers for each field, and a sidecar that is written last
and carries the fingerprint of what the shard was made from. So an interrupted command resumes where
it stopped, and after a change only the shards that it touches are made again.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from hear_axlstm.audio.listing import Skipped
from hear_axlstm.audio.sources import AudioClip, ShardSpec, Source
from hear_axlstm.audio.tables import OPEN_CSV
from hear_axlstm.files import digest, naming_full_disk, replacing, write_text
from hear_axlstm.progress import progress

LOUD_SHARE = 0.1  # of clips left out: more than that is a warning
SKIPPED_HEADER = ("id", "reason")
T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """What is stored of one clip."""

    id: str
    arrays: Mapping[str, NDArray[Any]]
    """By field; the first dimension is rows."""
    facts: Mapping[str, float]
    """Numbers for the sidecar."""


@dataclass(frozen=True)
class Shard:
    """One unit of work, and where its arrays go."""

    folder: Path
    number: int
    fingerprint: str
    fields: tuple[str, ...]

    @property
    def sidecar(self) -> Path:
        """What is in it, and what it was made from."""
        return self.folder / f"shard-{self.number:05d}.json"

    def data(self, field: str) -> Path:
        """The file of one field, the clips' rows one after the other."""
        return self.sidecar.with_suffix(f".{field}")

    @property
    def files(self) -> set[Path]:
        """Everything that belongs to the shard."""
        return {self.sidecar, *map(self.data, self.fields)}

    def is_done(self) -> bool:
        """Whether it was already made, from the same files, and is all there."""
        try:
            made = self.read()
            sizes = [self.data(field).stat().st_size for field in self.fields]
            return made["fingerprint"] == self.fingerprint and made["bytes"] == sizes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def read(self) -> dict[str, Any]:
        """The sidecar: fingerprint, bytes of each field, columns of the clips, what was skipped."""
        return json.loads(self.sidecar.read_text(encoding="utf-8"))

    def write(self, found: Iterable[Record | Skipped]) -> None:
        """Write records as they come, then the sidecar.

        If something failed that may work the next time, the sidecar's fingerprint is left empty.

        Raises:
            OSError: if the disk is full; the message names the file and the remedy.
        """
        clips: dict[str, list[Any]] = {"id": [], **{f"{field} rows": [] for field in self.fields}}
        skipped: list[Skipped] = []
        self.sidecar.unlink(missing_ok=True)
        partial = {f: self.data(f).with_name(f"{self.data(f).name}.partial") for f in self.fields}
        with naming_full_disk(self.sidecar), ExitStack() as stack:
            files = {f: stack.enter_context(open(partial[f], "wb")) for f in self.fields}
            for item in found:
                if isinstance(item, Skipped):
                    skipped.append(item)
                    continue
                clips["id"].append(item.id)
                for field, file in files.items():
                    clips[f"{field} rows"].append(len(item.arrays[field]))
                    file.write(item.arrays[field].data)
                for name, value in item.facts.items():
                    clips.setdefault(name, []).append(value)
            sizes = [file.tell() for file in files.values()]
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        for field in self.fields:
            partial[field].replace(self.data(field))
        made = {
            "fingerprint": "" if any(skip.transient for skip in skipped) else self.fingerprint,
            "bytes": sizes,
            "clips": clips,
            "skipped": [[skip.id, skip.reason] for skip in skipped],
        }
        write_text(self.sidecar, json.dumps(made))


@dataclass(frozen=True)
class Plan:
    """The shards to be, of the clips of one source."""

    source: Source
    size: int | None
    """Clips of a shard; None leaves it to the source."""
    shards: list[Shard]
    sizes: list[int | None]
    """Clips of each, where that is known."""

    @property
    def fingerprint(self) -> str:
        """Of everything that the shards are made from."""
        return digest(shard.fingerprint for shard in self.shards)


def plan(
    source: Source,
    folder: Path,
    fields: tuple[str, ...],
    settings: Sequence[str],
    size: int | None = None,
) -> Plan:
    """List a source, without decoding anything.

    Args:
        source: of the clips.
        folder: where the shards go.
        fields: of their records.
        settings: what the records depend on beside the audio, as text.
        size: clips of a shard; None leaves it to the source.
    """
    shards, sizes = [], []
    specs = progress(source.shards(size), "listing", unit="shard", leave=False)
    for number, spec in enumerate(specs):
        made_from = digest([*settings, *spec.inputs()])
        shards.append(Shard(folder, number, made_from, fields))
        sizes.append(spec.size)
    return Plan(source, size, shards, sizes)


def jobs(planned: Plan, wanted: Iterable[int]) -> Iterator[tuple[int, AudioClip | Skipped]]:
    """The clips of the wanted shards, each with the number of its shard."""
    numbers = set(wanted)
    specs: Iterable[ShardSpec] = planned.source.shards(planned.size) if numbers else ()
    for number, spec in enumerate(specs):
        if number in numbers:
            yield from ((number, clip) for clip in spec.clips)


def write_shards(
    todo: Mapping[int, Shard],
    results: Iterable[tuple[int, T]],
    to_records: Callable[[Iterator[T]], Iterator[Record | Skipped]],
    on_shard: Callable[[int], None] = lambda done: None,
) -> None:
    """Write shards from one stream of results in order, so that no worker waits at a shard's end.

    Args:
        todo: shards by number.
        results: each with the number of its shard.
        to_records: what is stored of the results of one shard.
        on_shard: called with the number of shards that are done.
    """
    empty = dict(todo)
    for number, group in groupby(results, lambda result: result[0]):
        todo[number].write(to_records(result for _, result in group))
        del empty[number]
        on_shard(len(todo) - len(empty))
    for shard in empty.values():  # tars without a clip
        shard.write(())


@dataclass(frozen=True)
class Summary:
    """What all shards hold together."""

    clips: int
    kinds: Counter[str]
    """Number of clips that were skipped, by kind of reason."""
    fingerprint: str
    """Of what they were made from; another one if something may work the next time."""
    first: Skipped | None
    """The first clip that was skipped."""


def summarize(shards: Sequence[Shard], report: Path) -> Summary:
    """Count what finished shards hold, and list what was skipped in a CSV."""
    kinds: Counter[str] = Counter()
    fingerprints, clips, first = [], 0, None
    with naming_full_disk(report), open(report, "w", **OPEN_CSV) as file:
        writer = csv.writer(file)
        writer.writerow(SKIPPED_HEADER)
        for shard in shards:
            made = shard.read()
            fingerprints.append(made["fingerprint"])
            skipped = [Skipped(*skip) for skip in made["skipped"]]
            writer.writerows((skip.id, skip.reason) for skip in skipped)
            kinds.update(skip.kind for skip in skipped)
            first = first or (skipped[0] if skipped else None)
            clips += len(made["clips"]["id"])
    return Summary(clips, kinds, digest(fingerprints), first)


def write_report(path: Path, skipped: Iterable[Skipped]) -> None:
    """List what was left out and why in a CSV."""
    with replacing(path) as partial, open(partial, "w", **OPEN_CSV) as file:
        writer = csv.writer(file)
        writer.writerow(SKIPPED_HEADER)
        writer.writerows((skip.id, skip.reason) for skip in skipped)


def left_out(clips: int, skipped: Mapping[str, int], report: Path) -> str:
    """How much was left out and why, for the last line of a command; empty if nothing was."""
    number = sum(skipped.values())
    if not number:
        return ""
    total = clips + number
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.items())
    text = f"{number:,} of {total:,} left out ({kinds}), see {report}"
    return f"WARNING: {number / total:.0%}, {text}" if number > LOUD_SHARE * total else text
