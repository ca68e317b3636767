"""Reproduction of the paper's Table 2: published checkpoints compared with the printed scores.

OUT/rerun/           the evaluation, see hearbench.run.plan
OUT/table2-rerun.md  the table
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from scipy import stats

from hear_axlstm.checkpoints import hub
from hear_axlstm.checkpoints.authors import fetch
from hear_axlstm.checkpoints.authors.drive import UnreachableError
from hear_axlstm.checkpoints.authors.published import PUBLISHED as AUTHORS
from hearbench import paper_tables
from hearbench.errors import WeightsError
from hearbench.report.exports import markdown_rows, markdown_table, summary
from hearbench.report.score_tables import ScoreTable, compared_with_printed
from hearbench.results import Results
from hearbench.run.evaluate import Options, check_options
from hearbench.stats import Estimate
from hearbench.weights.fetch import default_folder, get_all
from hearbench.weights.table import CHECKPOINTS, find
from paper.rows import PaperError

log = logging.getLogger(__name__)

NAIVE = "HEAR-Naive"
OWN = ("spectrum", "logmel", "axlstm_tiny", "ssast_tiny")
"""Not in the paper's table: plain baselines and the weights that ship here."""
FETCH_ALL = "published"
FILE = "table2-rerun.md"


def specs(weights: str) -> dict[str, str]:
    """Row of Table 2 -> spec for `hearbench run --systems`, for the available checkpoints.

    Args:
        weights: a folder that is searched for official names, or "published" to download all that
            can be downloaded; what can't is logged and left out.

    Raises:
        PaperError: if no checkpoint is found.
    """
    found = _published() if weights == FETCH_ALL else _in_folder(Path(weights).expanduser())
    if not found and weights == FETCH_ALL:
        raise PaperError(
            "nothing could be downloaded: download checkpoints with a browser, and name their "
            "folder instead of 'published' (make: WEIGHTS=FOLDER)"
        )
    if not found:
        names = ", ".join(w.file for w in CHECKPOINTS.values() if w.row and w.file)
        runs = ", ".join(w.run for w in AUTHORS.values())
        raise PaperError(
            f"{weights} contains no checkpoint under its official name ({names}; {runs}): "
            "`hearbench weights list` says where they are published"
        )
    return {NAIVE: f"{NAIVE}=hearbench.systems.naive", **found}


def check_tasks(weights: str, options: Options) -> None:
    """Check the tasks and the engine, before anything is downloaded.

    Raises:
        PaperError: if no folder is named although "published" weights are to be downloaded.
        TaskError, HearevalError: as `check_options` does.
    """
    if options.tasks_dir is None and weights == FETCH_ALL:
        raise PaperError(
            "the printed scores are of the official tasks: name their folder with --tasks-dir "
            "(make: TASKS_DIR=FOLDER); `hearbench fetch-tasks FOLDER` downloads them"
        )
    check_options(options)


def _in_folder(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise PaperError(f"{folder} is not a directory: give the folder of the checkpoints")
    found = {
        weights.row: f"{weights.row}={weights.system}@{path}"
        for weights, path in find(folder).items()
        if weights.row
    }
    rows = _rows_by_recipe()
    for weights in AUTHORS.values():
        converted = sorted(folder.rglob(f"{weights.name}.safetensors"))
        runs = [path for path in sorted(folder.rglob(f"{weights.prefix}*")) if path.is_dir()]
        if converted or runs:
            row = rows[weights.preset]
            found[row] = f"{row}=hear_axlstm@{(converted + runs)[0]}"
    return found


def _published() -> dict[str, str]:
    found: dict[str, str] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for row, result in (*_authors(), *_others(), *_on_the_hub()):
        if isinstance(result, str):
            found[row] = f"{row}={result}"
        else:
            left_out[str(result)].append(row)
    for reason, names in left_out.items():
        log.warning("left out %s: %s", ", ".join(names), reason)
    return found


def _authors() -> Iterator[tuple[str, str | Exception]]:
    """The authors' weights as specs, or errors; without a connection only the first is tried."""
    unreachable: UnreachableError | None = None
    rows = _rows_by_recipe()
    for weights in AUTHORS.values():
        try:
            if unreachable and not weights.path.is_file():
                raise unreachable
            fetch.get(weights)
        except (ValueError, OSError) as error:
            unreachable = error if isinstance(error, UnreachableError) else unreachable
            yield rows[weights.preset], error
        else:
            yield rows[weights.preset], f"hear_axlstm@{weights.name}"


def _others() -> Iterator[tuple[str, str | Exception]]:
    wanted = [weights for weights in CHECKPOINTS.values() if weights.row and not weights.hub]
    for weights in wanted:
        if weights.can_be_fetched:
            log.warning("%s: license %s, from %s", weights.name, weights.license, weights.page)
    for weights, result in get_all(wanted, default_folder()):
        if isinstance(result, WeightsError):
            yield weights.row, WeightsError(str(result).removeprefix(f"{weights.name}: "))
        else:
            yield weights.row, f"{weights.system}@{result}"


def _on_the_hub() -> Iterator[tuple[str, str | Exception]]:
    """Models that transformers downloads, if the hub or its cache has their settings."""
    unreachable: ConnectionError | None = None
    for weights in CHECKPOINTS.values():
        if not (weights.row and weights.hub):
            continue
        try:
            if not isinstance(try_to_load_from_cache(weights.hub, "config.json"), str):
                if unreachable:
                    raise unreachable
                hub.download(f"hf://{weights.hub}", "config.json")
        except OSError as error:
            unreachable = error if isinstance(error, ConnectionError) else unreachable
            yield weights.row, error
        else:
            yield weights.row, f"{weights.system}@{weights.hub}"


def _rows_by_recipe() -> dict[str, str]:
    return {row.recipe: row.model for row in paper_tables.rows("table2") if row.recipe}


def markdown(results: Results, evaluated: Mapping[str, str]) -> str:
    """The paper's table with the measured scores, their differences, and all measured scores.

    Args:
        results: of an evaluation whose labels are the rows' names.
        evaluated: as `specs` gives it; the other rows are listed as missing.
    """
    parts = []
    if table := compared_with_printed(results):
        parts += [markdown_table(table), table.caption, _differences(table)]
        parts += ["Measured minus printed scores, in standard errors of that difference."]
    missing = [r.model for r in paper_tables.rows("table2") if r.model not in evaluated]
    parts += [f"Rows without a checkpoint: {', '.join(missing) or 'none'}.", summary(results)]
    return "\n\n".join(parts)


def _differences(table: ScoreTable) -> str:
    """A line for each measured system that has the name of a printed row."""
    printed = {row.name: row.cells for row in table.rows if not row.measured}
    lines = [
        [row.name, *map(_difference, row.cells, printed[row.name])]
        for row in table.rows
        if row.measured and row.name in printed
    ]
    return markdown_rows(["Model", *(head.text for head in table.heads)], lines, numbers=True)


def _difference(ours: Estimate | None, theirs: Estimate | None) -> str:
    if ours is None or theirs is None:
        return "-"
    error = math.hypot(_standard_error(ours), _standard_error(theirs))
    return f"{(ours.mean - theirs.mean) / error:+.1f}" if error > 0 else "-"


def _standard_error(score: Estimate) -> float:
    """Standard error of the mean; NaN for a single seed."""
    if score.half_width is None or score.seeds < 2:
        return math.nan
    return score.half_width / float(stats.t.ppf(0.975, score.seeds - 1))
