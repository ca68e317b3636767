"""Published checkpoints of the paper's other systems, from table.csv, with sources and licenses.

Addresses and names are those of the authors' READMEs and code; the URL of BEATs is a shared access
signature that its authors publish, valid to the year 3022. No download was tested: whether a
Drive folder holds a run under exactly this name is not known, so runs are looked for by a prefix.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Weights:
    """One published checkpoint: a file, or a training run's folder."""

    name: str
    """Name for `hearbench weights get`."""
    system: str
    """Name in `hearbench.systems.catalog`."""
    file: str
    """Official name of the file, or prefix of the run folder's name."""
    license: str
    """License: an SPDX identifier, or a name."""
    page: str
    """Web page that links to it."""
    row: str = ""
    """Its row in the paper's Table 2, if any."""
    url: str = ""
    """Address of the file itself."""
    drive_file: str = ""
    """Id of a file on Google Drive."""
    drive_folder: str = ""
    """Id of the Google Drive folder that holds the run."""
    hub: str = ""
    """Name on the Hugging Face hub, which transformers downloads by itself."""
    sha256: str = ""
    """Published checksum, if known."""
    also: str = ""
    """Alternative prefix of the run folder's name."""
    note: str = ""

    def is_called(self, name: str) -> bool:
        """Whether a file, or a run's folder or zip, has the official name."""
        if not self.is_run:
            return name == self.file
        name = name.lower()
        return name.startswith(self.file) or bool(self.also and name.startswith(self.also))

    def is_at(self, path: Path) -> bool:
        """Whether a path is these weights, by its official name and as a file or a folder."""
        if self.is_run:
            return self.is_called(path.name) and path.is_dir()
        if self.hub:  # as `save_pretrained` or a clone of the hub's repository leaves it
            return path.name == Path(self.hub).name and (path / "config.json").is_file()
        return self.can_be_fetched and self.is_called(path.name) and path.is_file()

    @property
    def is_run(self) -> bool:
        """Whether it is a folder."""
        return bool(self.drive_folder)

    @property
    def host(self) -> str:
        """Server of the download."""
        return urlsplit(self.url).hostname or "drive.google.com"

    @property
    def is_non_commercial(self) -> bool:
        """Whether the license forbids commercial use."""
        return "-NC" in self.license

    @property
    def can_be_fetched(self) -> bool:
        """Whether `hearbench weights get` downloads it."""
        return bool(self.url or self.drive_file or self.drive_folder)


with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as _file:
    CHECKPOINTS: dict[str, Weights] = {row["name"]: Weights(**row) for row in csv.DictReader(_file)}
"""Every checkpoint by name, in the order of Table 2."""


def find(folder: Path, wanted: Iterable[Weights] = CHECKPOINTS.values()) -> dict[Weights, Path]:
    """The checkpoints anywhere in a folder, under their official names.

    Of several files with one name, the least deeply nested one is used; of several runs, the first
    by name. Hidden folders, such as those of unfinished downloads, are left out.
    """
    visible = (
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    paths = sorted(visible, key=lambda path: (len(path.parts), path.name))
    found: dict[Weights, Path] = {}
    for weights in wanted:
        if path := next((path for path in paths if weights.is_at(path)), None):
            found[weights] = path
    return found
