"""What the README and docs/ show works as shown; commands are parsed by the real parsers."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import eval.__main__ as evaluation
from eval.systems import fingerprint, parse_system
from hear_axlstm import cli
from hear_axlstm.bulk.embed import embed
from hear_axlstm.classifier import Classifier, Labels
from hear_axlstm.config import PRESETS, preset

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
RATE = 16_000
EXTERNAL = {"tensorboard", "dask", "hear-validator", "pip", "pytest"}
"""Programs of others."""


def blocks(languages: set[str]) -> list[Any]:
    """The code blocks of all pages in some languages, each a test of its own."""
    found = [
        (name, number, code)
        for name, page in PAGES.items()
        for number, (language, code) in enumerate(BLOCK.findall(page))
        if language in languages
    ]
    assert found
    return [pytest.param(name, code, id=f"{name}-{number}") for name, number, code in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages assume."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    bark = 0.5 * np.sin(2 * np.pi * 900 * np.arange(RATE) / RATE)
    room = 0.05 * rng.standard_normal(4 * RATE)
    room[:RATE] += bark
    night = 0.05 * rng.standard_normal(6 * RATE)
    night[3 * RATE : 4 * RATE] += bark
    (folder / "recordings").mkdir()
    for index, kind in enumerate(rng.uniform(100, 3000, 8)):
        tone = np.sin(2 * np.pi * kind * np.arange(RATE) / RATE)
        soundfile.write(folder / "recordings" / f"{index}.wav", 0.3 * tone, RATE)
    noise = rng.uniform(-0.5, 0.5, RATE)
    for path in ("clip.wav", "recordings/same.wav"):
        soundfile.write(folder / path, noise, RATE)
    for name, sound in {"bark": bark, "room": room, "night": night}.items():
        soundfile.write(folder / f"{name}.wav", sound, RATE)
    embed([str(folder / "recordings")], folder / "scenes.npy")
    (folder / "runs" / "birds").mkdir(parents=True)
    classifier = Classifier(preset("axlstm_tiny"), Labels(("a", "b"), False))
    classifier.save(folder / "runs" / "birds" / "classifier.safetensors", {})
    return folder


@pytest.mark.parametrize(("page", "code"), blocks({"python"}))
def test_python_runs(
    page: str,
    code: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"audio": torch.zeros(1, RATE), "__name__": "page"}
    exec(code, names)
    printed = capsys.readouterr().out
    if page == "README.md":
        assert names["scene"].shape == (1, 960)
    if page == "embedding.md":
        assert names["scene"].shape == (960,) and names["steps"].shape == (25, 960)
    if "NearestNeighbors" in code:
        assert printed.splitlines()[0].endswith("  same.wav") and printed.startswith("1.00")
    if "savefig" in code:
        assert 2.9 < float(printed.split()[0]) < 4.1 and Path("timeline.png").stat().st_size
    if "watch" in names:
        assert names["heard"] and all(2900 < ms < 4600 for ms in names["heard"])


def test_the_system_in_20_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hearvalidator.validate import ValidateModel

    (code,) = re.findall(r"```python\n(.*?)```", PAGES["evaluation.md"], flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 20
    (tmp_path / "spectrum.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fingerprint(parse_system("spectrum")).sample_rate == 16_000
    ValidateModel("spectrum", None, device="cpu")()


def test_every_preset_is_listed() -> None:
    for name, config in PRESETS.items():
        assert re.search(rf"`{name}` \| [\d,]+ \| {config.embedding_size} \|", PAGES["README.md"])


@pytest.mark.parametrize(("page", "code"), blocks({"", "sh", "bash"}))
def test_commands_exist(page: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(code):
        check(words, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "axlstm embark recordings",
        "axlstm embed recordings --out a.npy --kinds scene",
        "axlstm embed recordings --out a.npy --kind scenes",
        "torchrun -m -- hear_axlstm.cli pretrain packed --modell axlstm_tiny",
        "python -m eval runs",
        "python -m benchmarks.nothing",
        "make nothing",
        "pip install 'hear_axlstm[nothing]'",
        "unknown program",
    ],
)
def test_wrong_commands_are_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = commands(line)
    with pytest.raises((AssertionError, KeyError)):
        check(words, monkeypatch)


def test_links_lead_somewhere() -> None:
    for name, page in PAGES.items():
        base = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page):
            if target and not target.startswith("http"):
                assert (base / target).exists(), f"{name}: {target}"


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a block, without comments, settings before them, and what they are piped to.

    A block that is no shell, such as output or a listing, has none.
    """
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation goes on
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        end = next((n for n, word in enumerate(words) if set(word) <= set("|;&<>()")), len(words))
        if words:
            yield words[:end]


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ...
