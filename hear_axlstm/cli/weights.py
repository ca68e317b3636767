"""`axlstm weights`: list, download, locate and remove weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints.authors import fetch, published
from hear_axlstm.checkpoints.authors.published import PUBLISHED, Published
from hear_axlstm.checkpoints.cache import weights_dir
from hear_axlstm.checkpoints.format import read_settings
from hear_axlstm.checkpoints.resolve import known_names, shipped_name
from hear_axlstm.checkpoints.shapes import parameters
from hear_axlstm.cli import unknown
from hear_axlstm.config import PRESETS

COLUMNS = ("name", "parameters", "width", "trained on", "from", "license", "size", "local")
DRIVE = "Google Drive"
Names = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint=""),
]
From = Annotated[
    str, tyro.conf.arg(name="from", metavar="FOLDER|FILE|ZIP|URL", help_behavior_hint="")
]


@dataclass(frozen=True)
class ListAll:
    """List all weights: parameters, width of an embedding, training data, license and size."""

    def __call__(self) -> None:
        """Print the table."""
        lines = [COLUMNS, *_shipped(), *map(_published, PUBLISHED.values())]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
        print(f"cache: {weights_dir()} (a download is three to four times the size listed)")
        print("next: axlstm weights get NAME, or load_model(NAME) in Python")


@dataclass(frozen=True)
class Get:
    """Download the authors' weights into the cache, or take them from a file or folder."""

    names: Names
    """Names from `axlstm weights list`."""
    source: From = ""
    """Source instead of the authors' folder: a run folder, checkpoint or zip that you downloaded
    with a browser, or the URL of a checkpoint or zip. It replaces the file in the cache."""

    def __call__(self) -> None:
        """Download the weights and print the path of each file."""
        if not self.names:
            raise ValueError(f"name the weights to get: {', '.join(PUBLISHED)}")
        _check_names(self.names)
        if self.source and (shipped := [name for name in self.names if name not in PUBLISHED]):
            raise ValueError(
                f"{shipped[0]} ships with this package: --from is for {', '.join(PUBLISHED)}"
            )
        for name in self.names:
            path = (
                fetch.get(PUBLISHED[name], self.source) if name in PUBLISHED else local_file(name)
            )
            print(f"{name}: {path} ({_size(path)})\nnext: load_model({name!r}) in Python")


@dataclass(frozen=True)
class Locate:
    """Print the path of weights on this machine."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """Name from `axlstm weights list`."""

    def __call__(self) -> None:
        """Print the path."""
        _check_names((self.name,))
        print(local_file(self.name))


@dataclass(frozen=True)
class Remove:
    """Delete downloaded weights from the cache."""

    names: Names
    """Names from `axlstm weights list`."""

    def __call__(self) -> None:
        """Delete the weights and print their names."""
        _check_names(self.names)
        if shipped := [name for name in self.names if name not in PUBLISHED]:
            raise ValueError(
                f"{shipped[0]} ships with this package; you can remove {', '.join(PUBLISHED)}"
            )
        for name in self.names:
            there = published.remove(PUBLISHED[name])
            print(f"{name}: {'removed' if there else 'nothing to remove'}")


def weights(
    command: Annotated[ListAll, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[Get, tyro.conf.subcommand("get", prefix_name=False)]
    | Annotated[Locate, tyro.conf.subcommand("path", prefix_name=False)]
    | Annotated[Remove, tyro.conf.subcommand("remove", prefix_name=False)],
) -> None:
    """List, get and remove weights by name.

    The authors' weights are downloaded once, from their Google Drive folder, and converted to
    safetensors without executing anything in them. HEAR_AXLSTM_CACHE sets the folder for them,
    and HEAR_AXLSTM_OFFLINE=1 forbids downloads.
    """
    command()


def local_file(name: str) -> Path:
    """The local file of weights; published ones are not downloaded.

    Raises:
        FileNotFoundError: if it is not on this machine.
    """
    if name in PUBLISHED and not fetch.is_intact(PUBLISHED[name].path):
        raise FileNotFoundError(
            f"{name} is not in the cache, or damaged: run `axlstm weights get {name}`, or "
            f"{PUBLISHED[name].remedy}"
        )
    return checkpoints.locate(name)


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in (*known_names(), *checkpoints.manifest()["weights"]):
            raise ValueError(unknown("weights", name, known_names()))


def _shipped() -> Iterator[tuple[str, ...]]:
    for preset, entry in checkpoints.manifest()["weights"].items():
        name = shipped_name(preset)
        config = PRESETS[preset]
        yield (
            name,
            f"{parameters(config):,}",
            str(config.embedding_size),
            entry["trained_on"],
            "this package",
            entry["license"],
            _size(checkpoints.locate(name)),
            "yes",
        )


def _published(row: Published) -> tuple[str, ...]:
    here = fetch.is_intact(row.path)
    config = read_settings(row.path)[0] if here else PRESETS[row.preset]
    return (
        row.name,
        f"{parameters(config):,}",
        str(config.embedding_size),
        row.trained_on,
        DRIVE,
        row.license,
        _size(row.path) if here else f"about {parameters(config) * 4 / 1e6:.0f} MB",
        "yes" if here else "damaged" if row.path.is_file() else "no",
    )


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"
