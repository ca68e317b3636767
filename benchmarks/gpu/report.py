"""The results of `benchmarks.gpu` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import tables
from tests.reference.cell import largest

Results = Mapping[str, Mapping[str, Any]]
"""Part -> its record, with "result" or "error"; parts that did not run are missing."""


def markdown(about: Mapping[str, Any], names: list[str], records: Results) -> str:
    """All tables; `names` are all parts in their order, by kind/case."""
    good = {name: r["result"] for name, r in records.items() if "result" in r}
    sections = [
        f"# {about['machine']}\n\n{about['date']}; revision {about['revision']}; "
        f"{len(good)} of {len(names)} parts done",
        _checks(names, good),
        _curves(good),
        _speed("Embedding, x real time (share of the peak; GB)", "embedding", good),
        _speed("Training, crops/s (share of the peak; GB)", "training", good),
        _probes(names, good),
        _left_out(names, records),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(title: str, header: tuple[str, ...], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    return f"## {title}\n\n" + "\n".join(tables.markdown(header, rows))


def _checks(names: list[str], good: Results) -> str:
    rows = []
    for name in names:
        if name.startswith("kernel/") and (r := good.get(name)):
            figures = [f"{r['largest']:.1e}", f"{r['bound']:.0e}"]
            rows.append([name, *figures, _verdict(r["passed"])])
    if check := good.get("self-check"):
        rows.append(["self-check", "", "", f"{_verdict(check['passed'])}: {check['chosen']}"])
    return _table("Triton against float64", ("check", "largest error", "bound", "result"), rows)


def _verdict(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def _curves(good: Results) -> str:
    curves = {name[6:]: good[name]["losses"] for name in good if name.startswith("curve/")}
    base = curves.get("torch float32", [])
    rows = []
    for name, losses in curves.items():
        marks = {0, len(losses) // 2, len(losses) - 1}
        points = ", ".join(f"{step + 1}: {losses[step]:.4f}" for step in sorted(marks))
        apart = largest(abs(a / b - 1) for a, b in zip(losses, base, strict=False))
        rows.append([name, points, f"{apart:.1e}"])
    header = ("products", "loss at step", "furthest from torch float32")
    return _table("Learning curves of axlstm_tiny", header, rows)


def _speed(title: str, kind: str, good: Results) -> str:
    cells: dict[str, dict[str, str]] = {}
    for name, r in good.items():
        if name.startswith(f"{kind}/"):
            _, preset, form = name.split("/")
            text = f"{r['rate']:,.1f} ({r['mfu']:.1%}; {r['gigabytes']:.1f})"
            cells.setdefault(preset, {})[form] = text
    forms = list(dict.fromkeys(form for row in cells.values() for form in row))
    rows = [[preset, *(row.get(form, "-") for form in forms)] for preset, row in cells.items()]
    return _table(title, ("preset", *forms), rows)


def _probes(names: list[str], good: Results) -> str:
    rows = []
    for name in names:
        if name.startswith("probes/") and (r := good.get(name)):
            figures = [f"{r['seconds']:.1f}", f"{r['seconds_a_seed']:.2f}"]
            rows.append([name[7:], f"{r['clips']:,}", str(r["seeds"]), str(r["epochs"]), *figures])
    header = ("task's size", "clips", "seeds", "epochs", "s", "s per seed")
    return _table("Batched probes on generated embeddings", header, rows)


def _left_out(names: list[str], records: Results) -> str:
    rows = []
    for name in names:
        if name not in records:
            rows.append([name, "no time left: run the same command again"])
        elif "error" in records[name]:
            rows.append([name, records[name]["error"].splitlines()[0].replace("|", "/")])
    return _table("Without a result", ("part", "why"), rows)
