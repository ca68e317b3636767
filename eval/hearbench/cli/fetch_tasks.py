"""`hearbench fetch-tasks`: download and resample the official tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import joblib
import tyro
from filelock import FileLock, Timeout

from hearbench.cli.call import INTERRUPTED
from hearbench.download import FetchError
from hearbench.options import option
from hearbench.tasks.fetch.archives import Archive, find_archives, needs, read_checksums
from hearbench.tasks.fetch.fetch import fetch_task
from hearbench.tasks.official import LICENSES, MIRRORS, OFFICIAL, Mirror, OfficialTask

WORK = ".fetch"  # archives and unfinished tasks, in the folder of tasks


def fetch_tasks(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    tasks: Annotated[tuple[str, ...], option("NAME ...")] = (),
    rates: tuple[int, ...] = (16_000,),
    url: Annotated[str | None, option("URL")] = None,
    checksums: Annotated[Path | None, option("FILE")] = None,
    keep_archives: bool = False,
    workers: Annotated[int | None, option("N")] = None,
    dry_run: bool = False,
) -> int:
    """Download the ten tasks of the paper, or some of them, and resample their audio.

    Run the same command again to resume. Existing tasks are kept.

    Args:
        folder: Folder of task folders; archives and unfinished tasks are in its .fetch.
        tasks: Names of the tasks (see `hearbench tasks`), or prefixes such as esc50; default: all.
        rates: Sample rates to provide, in Hz; the archives have 48000.
        url: Source of the archives instead of Zenodo: URL/<archive>.
        checksums: File in the format of `sha256sum` or `md5sum`, instead of Zenodo's MD5 sums.
        keep_archives: Keep the archives in .fetch.
        workers: Number of clips resampled at the same time; by default one per CPU.
        dry_run: Only report sizes and disk space.
    """
    _check(rates, workers)
    wanted = [task for task in _choose(tasks) if not _is_there(folder / task.folder, rates)]
    mirrors = MIRRORS if url is None else (Mirror(url.rstrip("/")),)
    known = _checksums_of(wanted, checksums) if checksums is not None else {}
    archives = find_archives(wanted, folder / WORK, mirrors, known)
    needed = needs(archives, folder, rates, keep_archives)
    print(f"{len(archives)} task(s) to fetch: {needed}")
    if dry_run or not archives:
        return 0
    if needed.disk > needed.free:
        raise FetchError(f"not enough disk space in {folder} ({needed}): free some, or fetch fewer")
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / WORK / "lock", timeout=0):
            failures = _fetch(archives, folder, rates, workers or joblib.cpu_count(), keep_archives)
    except Timeout as error:
        raise FetchError(f"another process is fetching tasks into {folder}: wait for it") from error
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        return INTERRUPTED
    for failure in failures:
        print(f"Failed: {failure}", file=sys.stderr)
    print(f"Licenses of the datasets: {LICENSES}. Next: hearbench run --tasks-dir {folder}")
    return 1 if failures else 0


def _check(rates: tuple[int, ...], workers: int | None) -> None:
    if not rates or min(rates) < 1:
        raise FetchError(f"rates={rates}: give sample rates in Hz, e.g. 16000")
    if workers is not None and workers < 1:
        raise FetchError(f"workers={workers}: at least one is needed")


def _checksums_of(wanted: list[OfficialTask], file: Path) -> dict[str, str]:
    """Read a file of checksums; raises if it has none of an archive that is wanted."""
    known = read_checksums(file)
    if known and wanted and known.keys().isdisjoint(task.archive for task in wanted):
        names = ", ".join(task.archive for task in wanted)
        raise FetchError(f"{file} names none of the archives: {names}")
    return known


def _choose(names: tuple[str, ...]) -> list[OfficialTask]:
    """Select official tasks by folder name, or by its first part, e.g. `esc50`."""
    by_name = {task.folder.split("-")[0]: task for task in OFFICIAL.values()} | OFFICIAL
    if unknown := [name for name in names if name not in by_name]:
        raise FetchError(f"unknown task {unknown[0]!r}: choose from {', '.join(OFFICIAL)}")
    return list(dict.fromkeys(by_name[name] for name in names)) or list(OFFICIAL.values())


def _is_there(path: Path, rates: tuple[int, ...]) -> bool:
    """Whether a task exists already; raises if it lacks some of the rates."""
    if not path.exists():
        return False
    if missing := [rate for rate in rates if not (path / str(rate)).is_dir()]:
        raise FetchError(
            f"{path} exists, but has no audio at {missing[0]} Hz: move it away and fetch it "
            f"with --rates {' '.join(map(str, rates))}"
        )
    print(f"{path.name} exists already")
    return True


def _fetch(
    archives: list[Archive], folder: Path, rates: tuple[int, ...], workers: int, keep: bool
) -> list[FetchError]:
    """Fetch tasks one after another; a failure does not stop the others."""
    failures = []
    for archive in archives:
        try:
            fetch_task(archive, folder, rates, workers, keep)
        except FetchError as error:
            failures.append(error)
        except OSError as error:
            raise FetchError(f"{error}: partial downloads are kept, run again") from error
    return failures
