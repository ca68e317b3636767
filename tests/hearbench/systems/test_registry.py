"""Naming systems, and fingerprints that change with everything an embedding depends on."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from hearbench.cli.systems import systems
from hearbench.published import rows
from hearbench.systems import naive
from hearbench.systems.catalog import CATALOG
from hearbench.systems.registry import (
    DEFAULTS,
    HEAR_API,
    System,
    SystemSpecError,
    fingerprint,
    fingerprints,
    parse_system,
    parse_systems,
)

MODULE = """
import torch
class Model(torch.nn.Module):
    sample_rate = 16000
    def __init__(self, scale):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3) * scale)
def load_model(model_file_path=""):
    return Model(float(model_file_path or 1))
def get_scene_embeddings(audio, model):
    return audio[:, :3] * model.weight
def get_timestamp_embeddings(audio, model):
    return audio[:, None, :3] * model.weight, torch.zeros(len(audio), 1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A HEAR module in a file of its own."""
    name = f"hear_module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


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
    with pytest.raises(SystemSpecError, match="'naive' is used twice"):
        parse_systems(["naive", "naive=other"])
    assert parse_system("axlstm_base.audioset").model == "axlstm_base.audioset"
    assert parse_system("B=ssast_base").module == "hear_axlstm"
    assert parse_systems([]) == parse_systems(DEFAULTS)
    assert tuple(system.label for system in parse_systems([])) == DEFAULTS


def test_fingerprint_follows_weights_and_code(module: str, tmp_path: Path) -> None:
    first = fingerprint(System("x", module))
    assert fingerprint(System("another label", module)) == first
    assert (first.sample_rate, first.parameters) == (16_000, 3)
    scaled = fingerprint(System("x", module, "2.0"))
    (tmp_path / f"{module}.py").write_text(MODULE.replace(":3]", ":2]"), "utf-8")
    edited = fingerprint(System("x", module))
    sys.modules[module].load_model.__defaults__ = ("3.0",)
    reweighted = fingerprint(System("x", module))
    assert len({first.digest, scaled.digest, edited.digest, reweighted.digest}) == 4


def test_modules_in_the_current_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lies_here.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # as of a script
    with pytest.raises(SystemSpecError, match="no module 'lies_there'"):
        fingerprints([System("x", "lies_here"), System("y", "lies_there")])


def test_systems_that_cant_be_loaded(module: str, tmp_path: Path) -> None:
    with pytest.raises(SystemSpecError, match="can't import 'absent_module'"):
        fingerprint(System("x", "absent_module"))
    with pytest.raises(SystemSpecError, match="json is not a HEAR module: it lacks load_model"):
        fingerprint(System("x", "json"))
    with pytest.raises(SystemSpecError, match="could not convert string to float"):
        fingerprint(System("x", module, "large"))
    failing = {
        "old": ("import numpy\nnumpy.float", "AttributeError: module 'numpy' has no"),
        "exits": ("import sys\nsys.exit('needs a GPU')", "SystemExit: needs a GPU"),
        "dies": ("import os\nos._exit(1)", "the process that loaded it died"),
    }
    for name, (code, message) in failing.items():
        (tmp_path / f"{name}_module.py").write_text(code, "utf-8")
        with pytest.raises(SystemSpecError, match=f"system 'x': .*{message}"):
            fingerprints([System("x", f"{name}_module")])


def test_fingerprint_follows_the_files_of_a_folder(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "model" / "deep"
    folder.mkdir(parents=True)
    digests = set()
    for content in ("{}", '{"normalize": true}'):
        (folder / "config.json").write_text(content, "utf-8")
        digests.add(fingerprint(System("x", module, str(folder.parent))).digest)
    assert len(digests) == 2


def test_naive_follows_the_hear_api() -> None:
    model = naive.load_model()
    audio = torch.rand(2, 16_000) * 2 - 1
    embeddings, times = naive.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, 21, 4096) and times.shape == (2, 21)
    assert times[0, :3].tolist() == [0.0, 50.0, 100.0]
    scene = naive.get_scene_embeddings(audio, model)
    # Scenes are averages over frames 250 ms apart, which are every fifth of the timestamps'.
    torch.testing.assert_close(scene, embeddings[:, ::5].mean(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(scene, naive.get_scene_embeddings(audio, naive.load_model()))


def test_naive_mel_filters_are_triangles_at_rising_frequencies() -> None:
    filters = naive.load_model().mel_filters
    assert filters.shape == (1025, 256)
    assert (filters.sum(dim=0) > 0).all()  # none is empty
    assert (filters.argmax(dim=0).diff() >= 0).all()
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)[None]
    peak = naive.load_model().log_mel(tone, 250)[0, 2].argmax()
    assert filters[:, peak].argmax().item() * 16_000 / 2_048 == pytest.approx(1_000, abs=20)


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
