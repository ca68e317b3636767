"""Shards: the on-disk store for arrays of many clips, used by `axlstm pack` and `axlstm embed`.

A shard is the unit of work: one array file per field, and a sidecar, written last, with the
fingerprint of the inputs. Thus an interrupted command resumes where it stopped, and after a change
only the affected shards are rebuilt.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from hear_axlstm.audio.clips import AudioClip, ClipGroup, Source
from hear_axlstm.audio.skipped import HEADER, Skipped
from hear_axlstm.audio.tables import OPEN_CSV
from hear_axlstm.files import digest, naming_full_disk, replacing, write_text
from hear_axlstm.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """The stored data of one clip."""

    id: str
    arrays: Mapping[str, NDArray[Any]]
    """Arrays by field; the first dimension is rows."""
    facts: Mapping[str, float]
    """Numbers for the sidecar."""


@dataclass(frozen=True)
class Shard:
    """One unit of work, and the location of its arrays."""

    folder: Path
    number: int
    fingerprint: str
    fields: tuple[str, ...]

    @property
    def sidecar(self) -> Path:
        """File that lists the shard's clips and the fingerprint of its inputs."""
        return self.folder / f"shard-{self.number:05d}.json"

    def data(self, field: str) -> Path:
        """File of one field, with the clips' rows concatenated."""
        return self.sidecar.with_suffix(f".{field}")

    @property
    def files(self) -> set[Path]:
        """All files of the shard."""
        return {self.sidecar, *map(self.data, self.fields)}

    def is_done(self) -> bool:
        """Whether the shard exists, is complete and was made from the same files."""
        try:
            made = self.read()
            sizes = [self.data(field).stat().st_size for field in self.fields]
            return made["fingerprint"] == self.fingerprint and made["bytes"] == sizes
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def read(self) -> dict[str, Any]:
        """Read the sidecar: fingerprint, bytes of each field, columns of clips, skipped inputs."""
        return json.loads(self.sidecar.read_text(encoding="utf-8"))

    def write(self, found: Iterable[Record | Skipped]) -> None:
        """Write records as they arrive, then the sidecar.

        If there was a transient failure, the sidecar's fingerprint is left empty, to retry later.

        Raises:
            OSError: if the disk is full; the message names the file and the remedy.
        """
        clips: dict[str, list[Any]] = {"id": [], **{f"{field} rows": [] for field in self.fields}}
        skipped: list[Skipped] = []
        self.sidecar.unlink(missing_ok=True)
        with naming_full_disk(self.sidecar), ExitStack() as stack:
            partial = {f: stack.enter_context(replacing(self.data(f))) for f in self.fields}
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
        made = {
            "fingerprint": "" if any(skip.transient for skip in skipped) else self.fingerprint,
            "bytes": sizes,
            "clips": clips,
            "skipped": [[skip.id, skip.reason] for skip in skipped],
        }
        write_text(self.sidecar, json.dumps(made))


def is_shard_file(name: str, fields: Iterable[str]) -> bool:
    """Whether a file name is that of a shard with these fields."""
    endings = "|".join(map(re.escape, ("json", *fields)))
    return bool(re.fullmatch(rf"shard-\d{{5,}}\.({endings})", name))


@dataclass(frozen=True)
class Plan:
    """The shards planned for the clips of one source."""

    source: Source
    size: int
    """Clips per shard, unless there would be too many shards."""
    most: int | None
    """Maximum number of shards of a source of single files."""
    shards: list[Shard]
    sizes: list[int | None]
    """Number of clips of each shard, if known."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of everything that the shards are made from."""
        return digest(shard.fingerprint for shard in self.shards)

    def missing(self, shards: Iterable[Shard]) -> tuple[dict[int, Shard], int | None]:
        """The unfinished shards by number, and the number of their clips.

        The number of clips is None if it is not known for every shard.
        """
        missing = {shard.number: shard for shard in shards if not shard.is_done()}
        known = [size for number in missing if (size := self.sizes[number]) is not None]
        return missing, sum(known) if len(known) == len(missing) else None


def plan(
    source: Source,
    folder: Path,
    fields: tuple[str, ...],
    settings: Sequence[str],
    size: int,
    most: int | None = None,
) -> Plan:
    """List a source, without decoding anything.

    Args:
        source: source of the clips.
        folder: folder for the shards.
        fields: fields of the records.
        settings: everything besides the audio that the records depend on, as text.
        size: clips per shard; the clips of a tar are always one shard.
        most: number of shards above which `size` is doubled; None for no bound.
    """
    shards, sizes = [], []
    groups = Progress(source.groups(size, most), "listing", unit="shard", leave=False)
    for number, group in enumerate(groups):
        made_from = digest([*settings, *group.inputs()])
        shards.append(Shard(folder, number, made_from, fields))
        sizes.append(group.size)
    return Plan(source, size, most, shards, sizes)


def jobs(planned: Plan, wanted: Iterable[int]) -> Iterator[tuple[int, AudioClip | Skipped]]:
    """Yield the clips of the wanted shards, each with the number of its shard."""
    numbers = set(wanted)
    groups: Iterable[ClipGroup] = (
        planned.source.groups(planned.size, planned.most) if numbers else ()
    )
    for number, group in enumerate(groups):
        if number in numbers:
            yield from ((number, clip) for clip in group.clips)


def by_shard(
    todo: Mapping[int, Shard], results: Iterable[tuple[int, T]]
) -> Iterator[tuple[Shard, Iterator[T]]]:
    """Split one ordered stream of results by shard, so that no worker waits at a shard's end.

    Use the results of a shard before taking the next one. Shards without results come last.

    Args:
        todo: shards by number.
        results: results, each with the number of its shard.
    """
    empty = dict(todo)
    for number, group in groupby(results, lambda result: result[0]):
        yield empty.pop(number), (result for _, result in group)
    for shard in empty.values():  # tars without clips
        yield shard, iter(())


@dataclass(frozen=True)
class Summary:
    """Totals over all shards."""

    clips: int
    kinds: Counter[str]
    """Number of clips that were skipped, by kind of reason."""
    fingerprint: str
    """Fingerprint of the inputs; a different one after transient failures."""
    first: Skipped | None
    """The first clip that was skipped."""
    foreign: Shard | None
    """The first shard that was made from other inputs than planned."""


def summarize(shards: Sequence[Shard], report: Path) -> Summary:
    """Sum up finished shards, and list skipped inputs in a CSV."""
    kinds: Counter[str] = Counter()
    fingerprints, clips, first, foreign = [], 0, None, None
    with naming_full_disk(report), open(report, "w", **OPEN_CSV) as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for shard in shards:
            made = shard.read()
            fingerprints.append(made["fingerprint"])
            if made["fingerprint"] not in ("", shard.fingerprint):  # empty: a transient failure
                foreign = foreign or shard
            skipped = [Skipped(*skip) for skip in made["skipped"]]
            writer.writerows((skip.id, skip.reason) for skip in skipped)
            kinds.update(skip.kind for skip in skipped)
            first = first or (skipped[0] if skipped else None)
            clips += len(made["clips"]["id"])
    return Summary(clips, kinds, digest(fingerprints), first, foreign)
