"""Naming systems, and the catalog of those that come with hearbench."""

from __future__ import annotations

from importlib import import_module

import pytest

from hearbench.cli.systems import systems
from hearbench.paper_tables import rows
from hearbench.systems.catalog import CATALOG
from hearbench.systems.specs import (
    DEFAULTS,
    HEAR_API,
    System,
    SystemSpecError,
    parse_system,
    parse_systems,
)


@pytest.mark.parametrize(
    ("spec", "system"),
    [
        ("naive", System("naive", "hearbench.systems.naive")),
        ("random", System("random", "hear_axlstm", "axlstm_tiny.random")),
        ("ssast_tiny", System("ssast_tiny", "hear_axlstm", "ssast_tiny")),
        ("hear21passt.base", System("hear21passt.base", "hear21passt.base")),
        ("a.b@runs/x/best.pt", System("a.b-best", "a.b", "runs/x/best.pt")),
        ("mine=a.b@hf://org/repo@v1=2", System("mine", "a.b", "hf://org/repo@v1=2")),
    ],
)
def test_specs(spec: str, system: System) -> None:
    assert parse_system(spec) == system


def test_bad_specs() -> None:
    for spec in ("", "a/b=c", "=module", "no module", "x=@file"):
        with pytest.raises(SystemSpecError, match="LABEL="):
            parse_system(spec)
    with pytest.raises(SystemSpecError, match=r"names weights itself.*hear_axlstm@a\.pth"):
        parse_system("axlstm_tiny@a.pth")
    with pytest.raises(SystemSpecError, match="'naive' is used twice"):
        parse_systems(["naive", "naive=other"])
    assert parse_system("axlstm_base.audioset").checkpoint == "axlstm_base.audioset"
    assert parse_system("B=ssast_base").module == "hear_axlstm"
    assert parse_systems([]) == parse_systems(DEFAULTS)
    assert tuple(system.label for system in parse_systems([])) == DEFAULTS


def test_names_of_the_catalog() -> None:
    assert parse_system("beats@x/BEATs_iter3.pt") == System(
        "BEATs_iter3", "hearbench.systems.beats", "x/BEATs_iter3.pt"
    )
    run = parse_system("mine=ssam@runs/ssam_base_200")
    assert run == System("mine", "hearbench.systems.ssam", "runs/ssam_base_200")
    assert parse_system("audiomae@pretrained.pth").label == "audiomae-pretrained"
    with pytest.raises(SystemSpecError, match=r"needs weights: write beats@BEATs_iter3\.pt"):
        parse_system("beats")


def test_every_system_of_the_catalog_is_a_hear_module(capsys: pytest.CaptureFixture[str]) -> None:
    for name in CATALOG:
        module = import_module(f"hearbench.systems.{name}")
        assert not [function for function in HEAR_API if not hasattr(module, function)]
        assert systems(name) == 0
    assert systems() == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CATALOG) and "CC-BY-NC-4.0" in listed
    printed = {row.model for row in rows("table2") if not row.recipe}
    assert {row for card in CATALOG.values() for row in card.rows} == printed
    with pytest.raises(SystemSpecError, match="unknown system 'x'"):
        systems("x")
