"""The report as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

from hearbench.report.content import Content
from hearbench.report.paired_differences import certain
from hearbench.report.score_tables import Row, ScoreTable, measured, spread
from hearbench.results import PAPER, THESE, Results
from hearbench.stats import Estimate

WORST = 5  # classes listed for each system and task


def summary(results: Results) -> str:
    """The table in the layout of the paper's Table 2, and what is missing from it, as Markdown."""
    table = measured(results, (THESE, PAPER) if results.aggregates[PAPER] else (THESE,))
    notes = "\n".join(f"- {note}" for note in results.notes)
    return "\n\n".join(filter(None, (markdown_table(table), table.caption, notes))) + "\n"


def markdown(content: Content) -> str:
    """Tables for reading: scores, printed scores, differences, worst classes, provenance."""
    parts = [f"# {content.title}", content.lead]
    parts += [f"- {note}" for note in content.results.notes]
    for table in _tables(content):
        parts += [f"## {table.title}", markdown_table(table), table.caption]
    if content.comparisons:
        parts += ["## Two systems, seed by seed", _differences(content)]
        parts.append(
            f"Difference of the scores of the same seed. {spread(content.differences)} * marks "
            "paired 95 % intervals (Student t) that exclude zero. They reflect the probe's seeds "
            "only, and are not corrected for the number of comparisons."
        )
    if content.mistakes:
        parts += ["## Worst classes", _worst(content)]
    found = content.provenance
    parts += ["## Provenance", "\n".join(f"- {name}: {value}" for name, value in found.facts)]
    parts += [markdown_rows(found.system_heads, found.systems)]
    parts += [markdown_rows(found.task_heads, found.tasks)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: ScoreTable) -> str:
    """A score table; the best of each column in bold."""
    heads = ["Model", "#M Params", *(head.text for head in table.heads)]
    rows = []
    for row in table.rows:
        cells = [str(cell or "-") for cell in row.cells]
        best = [f"**{c}**" if table.is_best(row, i) else c for i, c in enumerate(cells)]
        rows.append((row.title, _millions(row), *best))
    return markdown_rows(heads, rows, numbers=True)


def table_csv(content: Content) -> str:
    """One line per score: where it stands in which table, its mean, interval, range and seeds."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = ["table", "source", "model", "million_parameters", "area", "column"]
    numbers = ("mean", "half_width", "lowest", "highest")
    writer.writerow([*heads, *numbers, "seeds", "best"])
    for table in _tables(content):
        for row in table.rows:
            source = "measured" if row.measured else "printed"
            size = "" if row.parameters is None else f"{row.parameters:.6g}"
            for index, (head, cell) in enumerate(zip(table.heads, row.cells, strict=True)):
                found = [getattr(cell, name, None) for name in numbers]
                values = ["" if value is None else f"{value:.4f}" for value in found]
                values.append("" if cell is None else str(cell.seeds))
                place = [table.name, source, row.name, size, head.area, head.text]
                writer.writerow([*place, *values, "yes" if table.is_best(row, index) else ""])
    return file.getvalue()


def latex(content: Content) -> str:
    """The score tables for a paper; they need the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(t) for t in _tables(content))


def _latex(table: ScoreTable) -> str:
    heads = ["Model", r"\#M", *(_escaped(head.text) for head in table.heads)]
    lines = [r"\begin{table*}", r"\centering", rf"\caption{{{_escaped(table.caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule"]
    lines += [" & ".join(heads) + r" \\", r"\midrule"]
    group = table.rows[0].group if table.rows else ""
    for row in table.rows:
        if row.group != group:
            lines.append(r"\midrule")
            group = row.group
        cells = [_tex_cell(cell, table.is_best(row, i)) for i, cell in enumerate(row.cells)]
        lines.append(" & ".join([_escaped(row.title), _millions(row), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def _tex_cell(cell: Estimate | None, best: bool) -> str:
    if cell is None:
        return "--"
    mean = rf"\mathbf{{{cell.mean:.1f}}}" if best else f"{cell.mean:.1f}"
    return f"${mean}$ {_escaped(cell.spread)}".rstrip()


def _escaped(text: str) -> str:
    plain = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}"}
    plain |= {char: f"\\{char}" for char in "_%&#${}"} | {"^": r"\textasciicircum{}"}
    return "".join(plain.get(char, char) for char in text)


def _tables(content: Content) -> list[ScoreTable]:
    return [content.measured, *([content.printed] if content.printed else [])]


def _millions(row: Row) -> str:
    if row.parameters is None:
        return "-"
    return f"{row.parameters:.1f}" + ("*" if row.with_decoder else "")


def _differences(content: Content) -> str:
    heads = ["system", "minus", *(head.text for head in content.measured.heads)]
    rows = []
    for pair in content.comparisons:
        cells = [
            "-" if value is None else f"{_signed(value)}{'*' if certain(value) else ''}"
            for value in pair.differences
        ]
        rows.append((pair.system, pair.reference, *cells))
    return markdown_rows(heads, rows, numbers=True)


def _signed(value: Estimate) -> str:
    return f"{'+' if value.mean >= 0 else ''}{value}"


def _worst(content: Content) -> str:
    rows = [
        (m.task, m.system, ", ".join(f"{c.label} {c.percent:.1f}" for c in m.classes[:WORST]))
        for m in content.mistakes
    ]
    return markdown_rows(("task", "system", "recall, or average precision, in percent"), rows)


def markdown_rows(
    heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False
) -> str:
    """A Markdown table; `numbers` aligns all columns but the first to the right."""
    rule = ["---"] + ["---:" if numbers else "---"] * (len(heads) - 1)
    lines = [heads, rule, *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
