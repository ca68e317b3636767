"""`hearbench weights`: published checkpoints of the other systems of the paper's Table 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from hearbench.cli import unknown
from hearbench.errors import WeightsError
from hearbench.options import option
from hearbench.weights.fetch import default_folder, get_all
from hearbench.weights.table import CHECKPOINTS, Weights, find

LINE = "{:20} {:13} {:13} {:23} {:8} {}"


def weights(
    action: Annotated[Literal["list", "get"], tyro.conf.Positional] = "list",
    names: Annotated[tuple[str, ...], tyro.conf.Positional, option("[NAME ...]")] = (),
    *,
    source: Annotated[
        Path | None, tyro.conf.arg(name="from", metavar="FOLDER|FILE|ZIP", help_behavior_hint="")
    ] = None,
    to: Annotated[Path | None, option("FOLDER")] = None,
) -> int:
    """List the published checkpoints of other systems, or download some.

    Args:
        action: "list" prints all, "get" downloads those named.
        names: Names of the weights to get.
        source: Files that you downloaded with a browser, to use instead: a file, a run's folder, a
            zip, or a folder that contains them. It replaces what is in the destination.
        to: Destination folder; by default HEARBENCH_CACHE or the platform's cache folder.
    """
    folder = to or default_folder()
    if action == "list":
        return _list(folder)
    if not names:
        raise WeightsError("name the weights to get; `hearbench weights list` lists them")
    if missing := [name for name in names if name not in CHECKPOINTS]:
        raise WeightsError(unknown("weights", missing[0], CHECKPOINTS))
    wanted = [CHECKPOINTS[name] for name in names]
    for chosen in wanted:
        print(f"{chosen.name}: license {chosen.license}, from {chosen.page}")
        if chosen.is_non_commercial:
            print(f"{chosen.name}: these weights are for NON-COMMERCIAL use only")
    failed = []
    for chosen, result in get_all(wanted, folder, source):
        if isinstance(result, WeightsError):
            failed.append(str(result))
        else:
            print(f"{chosen.name}: {result}\n  hearbench run --systems {chosen.system}@{result}")
    if failed:
        raise WeightsError("\n".join(failed))
    return 0


def _list(folder: Path) -> int:
    here = find(folder) if folder.is_dir() else {}
    print(LINE.format("weights", "system", "table 2", "license", "local", "published at"))
    for chosen in CHECKPOINTS.values():
        print(_row(chosen, chosen in here))
    print(f"\nDownload into {folder} with: hearbench weights get NAME...")
    return 0


def _row(chosen: Weights, is_here: bool) -> str:
    if chosen.hub:
        state = "hub"
    elif not chosen.can_be_fetched:
        state = "by hand"
    else:
        state = "yes" if is_here else "no"
    where = chosen.page + (f" ({chosen.note})" if chosen.note else "")
    return LINE.format(chosen.name, chosen.system, chosen.row or "-", chosen.license, state, where)
