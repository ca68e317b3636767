"""Folder listing: follows linked folders once, reports unreadable ones, counts other files."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hear_axlstm.audio.formats import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES
from hear_axlstm.wording import plural

SHOWN = 5  # file extensions that a message lists
STAMP, REQUEST = "embed.json", "request.json"  # in folders of embeddings, and of their parts


class SourceError(ValueError):
    """Raised for a source without audio; the message names the remedy."""


@dataclass
class Listing:
    """The files below a folder; paths are relative to it, with slashes."""

    files: list[str] = field(default_factory=list)
    """Audio files, identified by their extensions."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folders that can't be read, and why."""
    others: Counter[str] = field(default_factory=Counter)
    """Number of other files by extension; hidden files are ignored."""

    def others_text(self) -> str:
        """Describe the other files for a message."""
        shown = [
            f"{n:,} {ending or 'without extension'}" for ending, n in self.others.most_common()
        ]
        more = f" and {len(shown) - SHOWN} more extensions" if len(shown) > SHOWN else ""
        return f"{plural(self.others.total(), 'other file')} ({', '.join(shown[:SHOWN])}{more})"

    def hint(self) -> str:
        """Describe the folder's content for an error if there is no audio."""
        found = [self.others_text()] if self.others else []
        found += [f"{folder}: {reason}" for folder, reason in list(self.unreadable.items())[:SHOWN]]
        text = f", but {'; '.join(found)}" if found else ""
        if any(ending in self.others for ending in (".tar", ".tgz", ".gz")):
            text += "; pass tars as a pattern, e.g. 'folder/*.tar'"
        elif ".csv" in self.others:
            text += "; pass the CSV itself to read the files that it lists"
        else:
            text += f": known extensions are {', '.join(sorted(AUDIO_SUFFIXES))}"
        return text


def may_be_audio(path: str) -> bool:
    """Whether a file's name looks like audio; hidden files (``._a.wav``) never do."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    return suffix in AUDIO_SUFFIXES | OTHER_AUDIO_SUFFIXES and not name.startswith(".")


def list_folder(folder: str) -> Listing:
    """List all audio files below a folder, sorted by path."""
    listing = Listing()
    for path, error in _walk(folder):
        if error is not None:
            listing.unreadable[path or "."] = error
        elif may_be_audio(path):
            listing.files.append(path)
        elif not os.path.basename(path).startswith("."):
            listing.others[os.path.splitext(path)[1].lower()] += 1
    listing.files.sort()
    return listing


def find_by_name(folder: str, names: Sequence[str]) -> dict[str, str]:
    """Find the files that a table in `folder` lists by bare names.

    Searches the folder and sibling folders with "audio" in their name, as in ESC-50, FSD50K and
    UrbanSound8K.

    Returns:
        Paths by name, and by name without extension; names shared by two files are left out.
    """
    names = [name for name in names if name]
    if any("/" in name or os.path.lexists(os.path.join(folder, name)) for name in names):
        return {}
    above = os.path.dirname(folder)
    try:
        beside = [name for name in sorted(os.listdir(above)) if "audio" in name.lower()]
    except OSError:
        beside = []
    found: dict[str, str] = {}
    doubled: set[str] = set()
    for top in dict.fromkeys([folder, *(os.path.join(above, name) for name in beside)]):
        for path in list_folder(top).files if os.path.isdir(top) else ():
            file, name = os.path.join(top, path), os.path.basename(path)
            for key in (name, os.path.splitext(name)[0]):
                if found.setdefault(key, file) != file:
                    doubled.add(key)
    unique = {key: file for key, file in found.items() if key not in doubled}
    return unique if any(name in unique for name in names) else {}


def match_pattern(pattern: str) -> list[str]:
    """List the files that a pattern matches, sorted; without ``**``, also folders."""
    if "**" not in pattern:
        return sorted(glob.glob(pattern))
    pieces = pattern.replace(os.sep, "/").split("/")
    at = next(index for index, piece in enumerate(pieces) if glob.has_magic(piece))
    top, rest = "/".join(pieces[:at]), pieces[at:]
    start = "/" if at == 1 and not top else top or "."
    matches = (path for path, error in _walk(start) if error is None)
    found = [path for path in matches if _matches(path.split("/"), rest)]
    return sorted(os.path.join(start, path) if top or at else path for path in found)


def _walk(top: str) -> Iterator[tuple[str, str | None]]:
    """Yield the files below a folder, and unreadable folders with the reason.

    Linked folders come last, so that each folder appears once, under its own name if possible.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = deque([""]), deque[str]()
    while folders or linked:
        folder = folders.popleft() if folders else linked.popleft()
        path = os.path.join(top, folder) if folder else top
        try:
            stat = os.stat(path)
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(path) as entries:
                found = list(entries)
        except OSError as error:
            yield folder, f"folder can't be read ({error.strerror}): change its permissions"
            continue
        for entry in found:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(name)
            else:
                yield name, None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a path match those of a pattern; ``**`` matches any number."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if _matches(parts, pattern[1:]):
            return True
        return bool(parts) and not parts[0].startswith(".") and _matches(parts[1:], pattern)
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
