"""The paper's Tables 2 to 5 with the scores of our own finished training runs.

RUNS/<recipe>/model.safetensors    a row's training run (hear_axlstm.pretrain.recipes)
RUNS/<recipe>-seed<n>/             training runs of the same row with other seeds
OUT/eval/                          their evaluation, see hearbench.run.plan
OUT/<table>.md                     the table
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from statistics import fmean

from hear_axlstm import checkpoints
from hear_axlstm.config import ModelConfig
from hearbench import paper_tables
from hearbench.paper_tables import PaperTable
from hearbench.report.exports import markdown_rows, markdown_table
from hearbench.report.score_tables import compared_with_printed, probes, seeds
from hearbench.results import PAPER, SCALES, THESE, Results
from paper.rows import TABLES, PaperError, Table, run_name

ANCHOR = "naive"  # scored with the rows: without it the worst row would be the zero of s(m)


def finished(name: PaperTable, runs: Path) -> dict[str, Path]:
    """The finished training runs of its rows: name -> weights.

    Raises:
        PaperError: if there are none.
    """
    found: dict[str, Path] = {}
    for recipe in TABLES[name].rows:
        names = (run_name(recipe, seed) for seed in count())
        files = ((training, runs / training / checkpoints.FILE_NAME) for training in names)
        found |= takewhile(lambda pair: pair[1].is_file(), files)
    if not found:
        first = TABLES[name].rows[0]
        raise PaperError(
            f"{runs} has no finished row of {name}: train them with `make ablations`, or one by "
            f"`axlstm pretrain DATA --recipe {first} --run {runs / first}`"
        )
    return found


def systems(trained: Mapping[str, Path]) -> tuple[str, ...]:
    """Systems to evaluate, as `hearbench.systems.specs.parse_systems` reads them."""
    return (ANCHOR, *(f"{training}=hear_axlstm@{path}" for training, path in trained.items()))


def write_table(name: PaperTable, trained: Mapping[str, Path], results: Results, out: Path) -> Path:
    """Write OUT/<table>.md and return its path."""
    file = out / f"{name}.md"
    file.write_text(markdown(name, trained, results), "utf-8")
    return file


def markdown(name: PaperTable, trained: Mapping[str, Path], results: Results) -> str:
    """The table: what a row is, its scores, and the s(m) that the paper prints.

    Table 2 is followed by all of its printed rows, on the official tasks that were evaluated.
    """
    table, printed = TABLES[name], paper_tables.printed(name)
    scale = PAPER if results.aggregates[PAPER] else THESE
    heads = ["recipe", *table.settings, "parameters", "validation loss"]
    heads += [*(task.path.name for task in results.plan.tasks), SCALES[scale], "printed s(m)"]
    lines = []
    for recipe in table.rows:
        own = [run_name(recipe, seed) for seed in range(len(trained))]
        own = [training for training in own if training in trained]
        cells = ["-"] * (len(table.settings) + 2)
        if own:
            cells = _facts(table, [trained[training] for training in own])
        cells += _scores(own, results, scale)
        lines.append([recipe, *cells, str(printed.get(recipe) or "-")])
    parts = [markdown_rows(heads, lines), _caption(table, scale, results)]
    if missing := [recipe for recipe in table.rows if recipe not in trained]:
        parts.append(f"Not trained: {', '.join(missing)}.")
    if results.notes:
        parts.append("\n".join(f"- {note}" for note in results.notes))
    if name == "table2" and (whole := compared_with_printed(results)):
        parts += [markdown_table(whole), whole.caption]
    return "\n\n".join(parts) + "\n"


def _caption(table: Table, scale: str, results: Results) -> str:
    scale = (
        "Both are on the scale of the paper's Table 2."
        if scale == PAPER
        else f"Ours is relative to these rows and HEAR-{ANCHOR} on {len(results.plan.tasks)} "
        "task(s): compare the order, not the numbers."
    )
    return (
        f"{table.title}. Scores by {probes(results.plan, results.plan.tasks)}; "
        f"{seeds(results.cells.values())} of the probes. The printed s(m) are the paper's. {scale} "
        "Several values in a cell come from several training runs, with their mean in brackets. "
        "Losses of different patch sizes are not comparable."
    )


def _facts(table: Table, paths: Sequence[Path]) -> list[str]:
    """Settings, parameters and validation losses of a row's trainings, from the weight files."""
    contents = [checkpoints.read(path) for path in paths]
    losses = [
        # the second name is that of weights/ssast_tiny.safetensors
        training.get("validation_loss", training.get("held_out_loss"))
        for _, training, _ in contents
    ]
    config, _, tensors = contents[0]
    return [
        *(_setting(config, name) for name in table.settings),
        f"{sum(tensor.numel() for tensor in tensors.values()):,}",
        _listed(loss and f"{loss:.4f}" for loss in losses),
    ]


def _scores(trainings: Sequence[str], results: Results, scale: str) -> list[str]:
    """Scores on each task, then s(m), followed by its mean if all of several runs have one."""
    tasks = [task.path.name for task in results.plan.tasks]
    cells = [_listed(results.cells.get((one, task)) for one in trainings) for task in tasks]
    placed = results.aggregates[scale]
    means = [placed[one].mean for one in trainings if one in placed]
    mean = f" ({fmean(means):.1f})" if len(means) == len(trainings) > 1 else ""
    return [*cells, _listed(map(placed.get, trainings)) + mean]


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value or "-") for value in values) or "-"


def _setting(config: ModelConfig, name: str) -> str:
    if config.architecture == "ssast" and name == "expansion":
        return "-"
    value = getattr(config, name)
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
