"""`hearbench systems`: the systems that come with hearbench."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import tyro

from hearbench.cli import unknown
from hearbench.options import option
from hearbench.systems.catalog import CATALOG, Card
from hearbench.systems.specs import DEFAULTS, SystemSpecError

HEADS = ("system", "table 2", "kHz", "embedding", "M", "code", "weights")
LINE = "{:12} {:37} {:4} {:16} {:16} {:23} {:23}"


def systems(name: Annotated[str | None, tyro.conf.Positional, option("[NAME]")] = None) -> int:
    """List the systems that come with hearbench, or describe one of them.

    The list has license, sample rate, embedding size, millions of parameters, where the weights
    are published, and what each system was verified against.

    Args:
        name: Name of a system.
    """
    if name is None:
        print(LINE.format(*HEADS).rstrip())
        for system, card in CATALOG.items():
            print(LINE.format(*_cells(system, card)).rstrip())
        for head, field in (("weights", "published"), ("verified against", "verified")):
            print(f"\n{'system':12} {head}")
            for system, card in CATALOG.items():
                print(f"{system:12} {getattr(card, field)}")
        print(
            "\nRun one as NAME@CHECKPOINT: hearbench run --systems beats@PATH naive\n"
            "Choices that a paper leaves open: hearbench systems NAME\n"
            "Any other module with the HEAR API: MODULE@CHECKPOINT; short names: "
            f"{', '.join(DEFAULTS)}"
        )
        return 0
    if name not in CATALOG:
        raise SystemSpecError(unknown("system", name, CATALOG))
    for part in fields(Card):
        value = getattr(CATALOG[name], part.name)
        text = ", ".join(value) if isinstance(value, tuple) else str(value)
        print(f"{part.name.replace('_', ' '):16} {text or '-'}")
    return 0


def _cells(name: str, card: Card) -> tuple[str, ...]:
    rate = f"{card.sample_rate / 1000:g}"
    rows = ", ".join(card.rows) or "-"
    licences = (card.code_license, card.weights_license)
    return (name, rows, rate, card.embedding_size, card.parameters, *licences)
