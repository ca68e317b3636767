"""The list of sources: which files of which repositories, and under which licenses."""

from __future__ import annotations

import csv
import fnmatch
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

SOURCES = Path(__file__).with_name("sources.csv")
FILES = Path(__file__).with_name("files.csv")
KINDS = ("speech", "music", "environment")
LICENSE_CLASSES = ("permissive", "free-terms", "share-alike", "gpl", "unclear", "non-commercial")
"""From the least to the most restrictive; no-derivatives licenses count as non-commercial."""
ACCEPTED = LICENSE_CLASSES[:3]
"""Classes that a corpus takes by default."""


@dataclass(frozen=True)
class License:
    """Terms of an audio file, as the manifest states them, and how restrictive they are."""

    name: str
    license_class: str

    def __post_init__(self) -> None:
        if self.license_class not in LICENSE_CLASSES:
            raise ValueError(
                f"license class {self.license_class!r} of {self.name!r} must be one of "
                + ", ".join(LICENSE_CLASSES)
            )


@dataclass(frozen=True)
class FileRule:
    """Rule for single files of a repository: a row of files.csv."""

    glob: str
    license: License | None
    """License of the files; None leaves them out."""


@dataclass(frozen=True)
class Source:
    """Files of one kind in one repository: a row of sources.csv and the repository's file rules."""

    repository: str
    """owner/name on the server that is cloned from, or debian/PACKAGE."""
    revision: str
    """Commit, or version of the package."""
    kind: str
    license: License
    include: Sequence[str]
    """Globs of paths, in which * also crosses /; without any, only files with a rule are taken."""
    exclude: Sequence[str]
    """Globs that take precedence over `include`."""
    max_seconds: float
    """Amount of audio after which the remaining files are skipped."""
    pieces: int
    """Maximum number of clips from one file."""
    rules: Sequence[FileRule] = ()
    """The first rule that matches a file applies."""

    def license_of(self, path: str) -> License | None:
        """Terms of one file, or None if it is none of this source's files."""
        if matches(path, self.exclude) or (self.include and not matches(path, self.include)):
            return None
        for rule in self.rules:
            if matches(path, (rule.glob,)):
                return rule.license
        return self.license if self.include else None


def matches(path: str, globs: Iterable[str]) -> bool:
    """Whether any of the globs matches the path; * also crosses /, and case is ignored."""
    return any(fnmatch.fnmatchcase(path.lower(), glob.lower()) for glob in globs)


def read_sources(
    path: Path = SOURCES, files: Path = FILES, kinds: Sequence[str] = KINDS
) -> list[Source]:
    """The sources of these kinds.

    Args:
        path: CSV of sources.
        files: CSV of licenses and exclusions of single files.
        kinds: which rows to keep.

    Raises:
        ValueError: for an incomplete row, naming its repository.
    """
    rules = _read_rules(files)
    with path.open(newline="", encoding="utf-8") as file:
        sources = [_source(row, rules.get(row["repository"], ()), path) for row in _rows(file)]
    return [source for source in sources if source.kind in kinds]


def _rows(file: TextIO) -> Iterator[dict[str, str]]:
    return iter(csv.DictReader(file, restval=""))


def _source(row: dict[str, str], rules: Sequence[FileRule], path: Path) -> Source:
    try:
        if row["kind"] not in KINDS:
            raise ValueError(f"kind {row['kind']!r} must be one of {', '.join(KINDS)}")
        return Source(
            repository=row["repository"],
            revision=row["revision"],
            kind=row["kind"],
            license=License(row["license"], row["license_class"]),
            include=_globs(row["include"]),
            exclude=_globs(row["exclude"]),
            max_seconds=3600 * float(row["max_hours"]) if row["max_hours"] else math.inf,
            pieces=int(row["pieces"]),
            rules=rules,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}, {row['repository']}: {error}") from None


def _globs(text: str) -> tuple[str, ...]:
    return tuple(glob.strip() for glob in text.split(";") if glob.strip())


def _read_rules(path: Path) -> dict[str, list[FileRule]]:
    rules: dict[str, list[FileRule]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in _rows(file):
            excluded = row["license_class"] == "excluded"
            terms = None if excluded else License(row["license"], row["license_class"])
            rules.setdefault(row["repository"], []).append(FileRule(row["glob"], terms))
    return rules


def combined(licenses: Sequence[License]) -> License:
    """Terms of a clip made from several files: all names, and the most restrictive class."""
    names = dict.fromkeys(terms.name for terms in licenses)
    strictest = max((terms.license_class for terms in licenses), key=LICENSE_CLASSES.index)
    return License(" + ".join(names), strictest)
