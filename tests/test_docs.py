"""What the README and docs/ show works as shown; commands are parsed by the real parsers."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import dropwhile, takewhile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import tomllib
import torch
import tyro
from PIL import Image

import hear_axlstm
import hearbench.cli as evaluation
from hear_axlstm import checkpoints, cli
from hear_axlstm.cli.embed import embed
from hear_axlstm.config import PRESETS, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.export import export
from hear_axlstm.finetune.classifier import Classifier, Labels
from hearbench.results import THESE
from hearbench.stats import Estimate
from hearbench.systems.fingerprint import fingerprint
from hearbench.systems.specs import parse_system
from scripts import gallery, results
from scripts.corpus import __main__ as corpus
from tests.helpers import system_checkpoints

ROOT = Path(__file__).parent.parent
PATHS = [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "eval/README.md"]
PAGES = {
    path.relative_to(ROOT).as_posix().removeprefix("docs/"): path.read_text("utf-8")
    for path in PATHS
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
RATE = 16_000
SHELL = ("", "sh", "bash")
PYTHON = [
    pytest.param(name, code, id=f"{name}-{number}")
    for name, page in PAGES.items()
    for number, (language, code) in enumerate(BLOCK.findall(page))
    if language == "python"
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages assume."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    tone = 0.5 * np.sin(2 * np.pi * 900 * np.arange(RATE) / RATE)
    bark, room, night = (0.05 * rng.standard_normal(s * RATE) for s in (1, 4, 6))
    for sound, start in ((bark, 0), (room, 0), (night, 3)):
        sound[start * RATE : (start + 1) * RATE] += tone
    (folder / "recordings").mkdir()
    for index, hertz in enumerate(rng.uniform(100, 3000, 8)):
        tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        soundfile.write(folder / "recordings" / f"{index}.wav", 0.3 * tone, RATE)
    noise = rng.uniform(-0.5, 0.5, RATE)
    for path in ("clip.wav", "recordings/same.wav"):
        soundfile.write(folder / path, noise, RATE)
    for name, sound in {"bark": bark, "room": room, "night": night}.items():
        soundfile.write(folder / f"{name}.wav", sound, RATE)
    embed((str(folder / "recordings"),), out=folder / "scenes.npy")
    (folder / "runs" / "birds").mkdir(parents=True)
    shallow = replace(preset("axlstm_tiny"), depth=1)
    classifier = Classifier(shallow, Labels(("a", "b"), False))
    classifier.save(folder / "runs" / "birds" / "classifier.safetensors", {})
    export(Embedder(shallow), folder / "axlstm_tiny.onnx")
    system_checkpoints.beats(folder)
    return folder


def without_download(
    name: str | Path = "", *, load: Callable[..., Any] = hear_axlstm.load_model, **options: Any
) -> Any:
    """Load the weights that ship where a page names weights that need a download."""
    return load("axlstm_tiny" if str(name).endswith(".audioset") else name, **options)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages download, in memory."""
    monkeypatch.setattr(hear_axlstm, "load_model", without_download)
    if importlib.util.find_spec("mteb"):
        from tests.helpers.mteb_task import Tones

        monkeypatch.setattr("mteb.get_benchmark", lambda _: [Tones()])
        evaluate = functools.partial(importlib.import_module("mteb").evaluate, cache=None)
        monkeypatch.setattr("mteb.evaluate", evaluate)
    if importlib.util.find_spec("datasets"):
        import datasets

        sounds = [{"array": [0.1] * 9_000, "sampling_rate": 22_050}] * 9
        rows = datasets.Dataset.from_dict({"audio": sounds}).to_iterable_dataset()
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)


@pytest.mark.parametrize(("page", "code"), PYTHON)
@pytest.mark.usefixtures("downloads")
def test_python_runs(
    page: str,
    code: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for module in re.findall(r"^import (mteb|datasets|ray)$", code, flags=re.MULTILINE):
        pytest.importorskip(module)
    audio = torch.randn(2, RATE)
    names: dict[str, Any] = {"audio": audio.numpy() if "onnx" in code else audio}
    exec(code, names)
    printed = capsys.readouterr().out
    if page in ("README.md", "embedding.md"):
        assert names["scene"].shape == (960,) and names["steps"].shape == (25, 960)
    if page == "export.md":
        assert names["scene"].shape == (2, 960)
    if "datasets" in names:
        assert names["scenes"].shape == (8, 960)
    if page == "finetuning.md":
        assert names["probabilities"].shape == (2, 2) and set(names["names"]) <= {"a", "b"}
    if "NearestNeighbors" in code:
        assert printed.splitlines()[0].endswith("  same.wav") and printed.startswith("1.00")
    if "savefig" in code:
        assert 2.9 < float(printed.split()[0]) < 4.1 and Path("timeline.png").stat().st_size
    if "detections" in names:
        assert names["detected"] and all(2900 < ms < 4600 for ms in names["detected"])


def test_the_system_in_20_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hearvalidator.validate import ValidateModel

    (code,) = re.findall(r"```python\n(.*?)```", PAGES["evaluation.md"], flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 20
    (tmp_path / "my_spectrum.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fingerprint(parse_system("my_spectrum")).sample_rate == 16_000
    ValidateModel("my_spectrum", None, device="cpu")()


def test_the_gallery_is_drawn(folder: Path, tmp_path: Path) -> None:
    night, bark = folder / "night.wav", folder / "bark.wav"
    gallery.main(folder / "recordings", ("same.wav", "1.wav"), bark, night, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"neighbors.png", "timeline.png"}
    with pytest.raises(ValueError, match="no clip is called other"):
        gallery.main(folder / "recordings", ("other",), out=tmp_path)


def test_the_pictures_of_results_are_drawn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, tasks, score = ("random", "axlstm_tiny"), ("birds", "words"), Estimate(50.0, 2.0, 10)
    found = SimpleNamespace(
        plan=SimpleNamespace(tasks=[SimpleNamespace(path=Path(task)) for task in tasks]),
        cells={(system, task): score for system in systems for task in tasks},
        aggregates={THESE: dict.fromkeys(systems, score)},
    )
    with monkeypatch.context() as patch:
        patch.setattr(results.Plan, "load", lambda _: None)
        patch.setattr(results, "collect", lambda _: found)
        results.scores(tmp_path, tmp_path / "scores.png")
    results.reconstruction((folder / "night.wav",), out=tmp_path / "reconstruction.png")
    for name in ("scores.png", "reconstruction.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 150 and len(picture.convert("L").getcolors() or ()) > 20
    with pytest.raises(ValueError, match=r"plan\.json does not exist: evaluate first"):
        results.scores(folder, tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"clip\.wav is too short: give recordings of 2 s"):
        results.reconstruction((folder / "clip.wav",), out=tmp_path / "short.png")


def test_a_gallery_without_a_model_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery", "--model", "nope"])
    with pytest.raises(SystemExit, match=r"scripts.gallery: no weights at 'nope'"):
        runpy.run_path(gallery.__file__, run_name="__main__")


def test_a_reconstruction_needs_the_head(tmp_path: Path) -> None:
    shallow = replace(preset("axlstm_tiny"), depth=1)
    checkpoints.save(tmp_path / "model.safetensors", Embedder(shallow), {}, torch.float32)
    with pytest.raises(
        ValueError, match=r"model\.safetensors do not fit .*: mask_token is missing"
    ):
        results.reconstruction((tmp_path / "any.wav",), str(tmp_path), tmp_path / "none.png")


def test_every_preset_is_listed() -> None:
    for name, config in PRESETS.items():
        assert re.search(
            rf"`{name}` \| [\d,]+ \| {config.embedding_size} \|", PAGES["embedding.md"]
        )


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [check(words, monkeypatch) for words in commands(PAGES[page])]
    assert any(found) or page in ("api.md", "architecture.md", "faq.md")  # these have none


def test_embed_commands_of_one_block_have_different_outputs() -> None:
    """An output belongs to one request, so a second command with another one is rejected."""
    for name, page in PAGES.items():
        for language, code in BLOCK.findall(page):
            found = [words for words in commands(f"```{language}\n{code}```") if "--out" in words]
            outputs = [w[w.index("--out") + 1] for w in found if w[:2] == ["axlstm", "embed"]]
            assert len(set(outputs)) == len(outputs), f"{name}: {outputs}"


@pytest.mark.parametrize(
    "line",
    [
        "axlstm embark recordings",
        "axlstm embed recordings --out a.npy --kinds scene",
        "axlstm embed recordings --out a.npy --kind scenes",
        "torchrun -m -- hear_axlstm pretrain packed --modell axlstm_tiny",
        "hearbench runs",
        "python -m benchmarks.nothing",
        "python -m benchmarks.latency --turns 3",
        "make nothing",
        "pip install 'hear_axlstm[nothing]'",
        "pip install -e .[nothing]",
    ],
)
def test_wrong_commands_are_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = commands(f"```\n{line}\n```")
    with pytest.raises((AssertionError, ImportError, SystemExit, subprocess.CalledProcessError)):
        check(words, monkeypatch)


def test_links_lead_somewhere() -> None:
    for name, page in PAGES.items():
        here = ROOT / name if name.endswith("README.md") else ROOT / "docs" / name
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page):
            path = here.parent / target if target else here
            assert path.exists(), f"{name}: {target}"
            assert not anchor or anchor in anchors(path), f"{name}: {target}#{anchor}"


def test_files_that_are_named_exist() -> None:
    """In all pages those below a top-level folder; in CONTRIBUTING all."""
    tops = "hear_axlstm|hearbench|eval|tests|scripts|benchmarks|docs|weights"
    below_top = re.compile(rf"`((?:{tops})/[\w./-]*)(?:::(\w+))?`")
    found = [(page, *match) for page, text in PAGES.items() for match in below_top.findall(text)]
    found += [("CONTRIBUTING.md", *match) for match in named_in_contributing()]
    assert len(found) > 60
    for page, path, name in found:
        places = [place / path for place in PLACES if (place / path).exists()]
        assert places, f"{page}: {path}"
        assert not name or re.search(rf"\b{name}\b", places[0].read_text("utf-8")), (
            f"{page}: {name}"
        )


PLACES = (ROOT, ROOT / "hear_axlstm", ROOT / "eval", ROOT / "eval" / "hearbench")


def named_in_contributing() -> Iterator[tuple[str, str]]:
    """Paths, and what is named in them; those that a recipe creates begin with `my`."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for line in text.splitlines():
        # a row of the table of folders names files in them
        folders = re.findall(r"`(\w+/)`", line) if line.startswith("| `") else []
        for path, name in re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.\w+|[\w/]+/)(?:::(\w+))?`", line):
            if "/my" not in path and (path.endswith((".py", ".csv", ".md")) or "/" in path):
                inside = [f for f in folders if (ROOT / "hear_axlstm" / f / path).exists()]
                yield "".join(inside[:1]) + path, name
    listed = next(code for _, code in BLOCK.findall(text) if "weights/" in code)
    for line in listed.splitlines():  # the other folders, and what is in one of them
        words = line.split() if line.startswith(" ") else line.split()[:1]
        yield from ((word, "") for word in words)


def anchors(path: Path) -> set[str]:
    """The headings of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


def commands(page: str) -> Iterator[list[str]]:
    """The commands in a page's blocks, without settings before them and pipes behind them."""
    for code in (code for language, code in BLOCK.findall(page) if language in SHELL):
        for line in code.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            try:
                words = list(lexer)
            except ValueError:  # a quotation goes on in the next line: no command of ours
                continue
            words = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
            yield list(takewhile(lambda word: not set(word) <= set("|;&<>()"), words))


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this is a command of ours, and then that it and its options exist."""
    if "-- hear_axlstm" in " ".join(words):  # under torchrun
        words = ["axlstm", *words[words.index("hear_axlstm") + 1 :]]
    match [word.removeprefix(".venv/bin/") for word in words]:
        case ["axlstm", "--version" | "--help" | "--completion", *_]:
            pass
        case ["axlstm", name, *arguments]:
            command = inert(cli.load(name))
            with monkeypatch.context() as patch:
                patch.setattr(cli, "load", lambda *_: command)
                cli.parse(name, [name, *arguments])
        case ["hearbench", *arguments]:
            load = evaluation.load
            with monkeypatch.context() as patch:
                patch.setattr(evaluation, "load", lambda name: inert(load(name)))
                parse(evaluation, arguments, patch)
        case ["python", "-m", "scripts.results", *arguments]:
            with monkeypatch.context() as patch:
                patch.setattr(
                    results, "COMMANDS", {n: inert(f) for n, f in results.COMMANDS.items()}
                )
                parse(results, arguments, patch)
        case ["python", "-m", "scripts.corpus", *arguments]:
            with monkeypatch.context() as patch:
                for name, command in corpus.COMMANDS.items():
                    patch.setitem(corpus.COMMANDS, name, inert(command))
                parse(corpus, arguments, patch)
        case ["python", "-m", "xares.run" | "venv", *_]:
            pass
        case ["python", "-m", module, *_] if module.startswith("heareval."):
            assert importlib.util.find_spec(module) is not None
        case ["python", "-m", module, *arguments]:
            tyro.cli(inert(importlib.import_module(module).main), args=arguments)
        case ["make", *arguments]:
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        case ["pip", "install", *_, wanted]:
            place = ROOT / "eval" if "eval" in wanted else ROOT
            extras = tomllib.loads((place / "pyproject.toml").read_text("utf-8"))["project"]
            for extra in re.findall(r"\[(.*)\]", wanted):
                assert extra in extras["optional-dependencies"], wanted
        case _:
            return False
    return True


def parse(module: ModuleType, arguments: list[str], patch: pytest.MonkeyPatch) -> None:
    """Let a command line read its arguments."""
    patch.setattr(sys, "argv", ["", *arguments])
    patch.setattr(signal, "signal", lambda *_: None)
    assert not module.main()


def inert(command: Callable[..., Any]) -> Callable[..., int]:
    """A function of the same arguments that does nothing."""
    return functools.wraps(command)(lambda *_, **__: 0)
