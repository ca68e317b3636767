"""What is to be embedded: files, folders, patterns, manifests, tars, a list on standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from hear_axlstm.audio.clips import Clip, Skipped, Source, Unit
from hear_axlstm.audio.io import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES
from hear_axlstm.audio.sources import MANIFEST_SUFFIXES, TAR_SUFFIXES, Files, open_source
from hear_axlstm.training.signals import is_under_torchrun

CLIPS_PER_PART = 128
STDIN = "-"


class InputError(ValueError):
    """Nothing to embed; the message names the remedy."""


class ListSource(Files):
    """Audio files one by one, each with its path for an id."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.name = "files"
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def clips(self) -> Iterator[Clip | Skipped]:
        """All clips, in the order given."""
        return (Clip(path, path) for path in self._paths)


class Inputs:
    """The clips of all inputs in their order.

    The ids of a folder, manifest or tar are those that it gives; where there are several inputs,
    they follow its own name. A file's id is its path.

    Raises:
        InputError, PackError: if an input does not exist, or has no clips.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        if not inputs:
            raise InputError("nothing to embed: give files, folders, a CSV, tars, or - for a list")
        found = [pair for text in inputs for pair in _expand(text)]
        self._sources: list[tuple[str, Source]] = []  # each with what its ids follow
        for sort, group in groupby(found, key=lambda pair: pair[0]):
            paths = [path for _, path in group]
            if sort == "file":
                self._sources.append(("", ListSource(paths)))
            else:
                names = paths if len(found) > 1 else [""]
                self._sources += zip(names, map(open_source, paths), strict=True)

    def units(self) -> Iterator[Unit]:
        """What is done at once: a tar, or some files."""
        for name, source in self._sources:
            for unit in source.units(CLIPS_PER_PART):
                yield _below(name, unit) if name else unit


def _expand(text: str) -> Iterator[tuple[str, str]]:
    """An input as files and sources, each with its sort, "file" or "source"."""
    if text == STDIN:
        yield from (("file", path) for path in _listed())
    elif _is_source(text):
        yield "source", text
    elif os.path.isfile(text):
        yield "file", text
    elif matches := sorted(filter(_is_wanted, glob.iglob(text, recursive=True))):
        yield from (("source" if _is_source(path) else "file", path) for path in matches)
    else:
        raise InputError(f"{text}: no such file, folder or pattern of audio files: check the path")


def _listed() -> list[str]:
    if is_under_torchrun():
        raise InputError("torchrun gives no process the list on standard input: use a CSV")
    paths = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    if not paths:
        raise InputError("standard input lists no files: write one path a line")
    return paths


def _is_source(text: str) -> bool:
    """A folder, a manifest, or tars."""
    is_tar = text.lower().endswith(TAR_SUFFIXES) or "://" in text or text.startswith("pipe:")
    is_pattern = glob.has_magic(text) and not os.path.exists(text)
    is_manifest = text.lower().endswith(MANIFEST_SUFFIXES) and not is_pattern
    return is_manifest or os.path.isdir(text) or (is_tar and not is_pattern)


def _is_wanted(path: str) -> bool:
    """Of what a pattern matches: no folder, which `**` would give beside its files."""
    known = AUDIO_SUFFIXES | OTHER_AUDIO_SUFFIXES | {*MANIFEST_SUFFIXES, *TAR_SUFFIXES}
    return os.path.isfile(path) and Path(path).suffix.lower() in known


def _below(name: str, unit: Unit) -> Unit:
    clips = (replace(clip, id=f"{name.rstrip('/')}/{clip.id}") for clip in unit.clips)
    return Unit(clips, unit.size, lambda: [name, *unit.inputs()])
