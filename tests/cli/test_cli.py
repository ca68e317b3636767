"""The command line, as a user types it."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_axlstm import __version__, cli, load_model
from hear_axlstm.checkpoints.cache import weights_dir
from hear_axlstm.cli import info as info_module
from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.finetune.classifier import Classifier, Labels
from hear_axlstm.ops.backends import backend

AXLSTM = str(Path(sys.executable).with_name("axlstm"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AXLSTM, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Exit code, output and errors of a command in this process, which has loaded PyTorch."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["axlstm", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = int(left.code or 0)
        return code, *capsys.readouterr()

    logger = logging.getLogger("hear_axlstm")
    level = logger.level
    yield call
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, list(cli.COMMANDS)),
        ([], 2, ["usage: axlstm COMMAND"]),
        (["--version"], 0, [f"axlstm {__version__}"]),
        (["embd"], 2, ["unknown command 'embd': did you mean embed?"]),
        (["xyz"], 2, ["choose one of embed, info"]),
        (["--completion", "ksh"], 2, ["no completion for 'ksh': choose one of bash"]),
    ],
)
def test_the_overview_needs_no_torch(arguments: list[str], code: int, words: list[str]) -> None:
    script = (
        "import sys; from hear_axlstm import cli; sys.argv = ['axlstm', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: assert not {'torch', 'tyro', 'soundfile'} & set(sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )
    assert found.returncode == code, found.stderr
    for word in words:
        assert word in found.stdout + found.stderr


def test_every_command_has_a_function_of_its_name() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert files - {"__init__", "__main__", "completion"} == set(cli.COMMANDS)
    for name in cli.COMMANDS:
        assert callable(cli.load(name))


def test_info_lists_presets_as_json(typed: Callable[..., tuple[int, str, str]]) -> None:
    rows = {row["name"]: row for row in json.loads(typed("info", "--json")[1])}
    assert list(rows) == list(PRESETS)
    assert rows["axlstm_tiny"]["parameters"] == 4_343_584
    assert rows["axlstm_base"]["scene_embedding_size"] == 3840
    assert rows["ssast_small"]["patch"] == [4, 16]
    assert rows["axlstm_tiny"]["weights"][0] == "open36h (ships)"
    assert [w.split()[0] for w in rows["ssast_base"]["weights"]] == ["audioset"]


def test_info_takes_names_and_prints_a_table(typed: Callable[..., tuple[int, str, str]]) -> None:
    lines = typed("info", "axlstm_small", "axlstm_tiny.random")[1].splitlines()
    assert "16,723,360" in lines[1] and lines[2].endswith("random")
    machine = dict(line.split(": ", 1) for line in lines[3:])
    assert machine.keys() == {"versions", "devices", "threads", "cache", "CPU kernel"}
    assert __version__ in machine["versions"] and torch.__version__ in machine["versions"]
    assert machine["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert machine["devices"].startswith(f"cpu (backend {backend('cpu')})")
    assert machine["cache"].startswith(f"{weights_dir()} (")
    assert (machine["CPU kernel"] == "in use") == (backend("cpu") == "cpu")


@pytest.mark.parametrize("name", [*cli.COMMANDS, "weights get", "weights remove"])
def test_help_shows_no_empty_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(name.split()[0], [*name.split(), "--help"])
    assert not re.search(r"\{None\}|\(default: (None)?\)", capsys.readouterr().out)


@pytest.fixture(scope="module")
def bash_script() -> str:
    return run("--completion", "bash").stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("axlstm fi", "finetune"),
        ("axlstm embed recordings --pat", "--path-column"),
        ("axlstm weights get axlstm_base.", "axlstm_base.audioset"),
        ("axlstm weights re", "remove"),
        ("axlstm weights get --fr", "--from"),
        ("axlstm pretrain --checkpoint-m", "--checkpoint-minutes"),
        ("axlstm embed --model ssast_s", "ssast_small ssast_small.audioset"),
        ("axlstm embed record", ""),
    ],
)
def test_bash_completes(typed: str, expected: str, bash_script: str) -> None:
    words = shlex.split(typed)
    answer = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _axlstm; echo ${{COMPREPLY[*]}}"
    program = bash_script + answer
    assert subprocess.check_output(["bash", "-c", program], text=True).strip() == expected


@pytest.mark.parametrize(
    ("available", "spec", "reason"),
    [
        (True, object(), "switched off by HEAR_AXLSTM_BACKEND=torch; unset it"),
        (False, object(), "does not load .*reinstall"),
        (False, None, r"no C\+\+ compiler was found; install one and .*reinstall"),
    ],
)
def test_info_says_why_the_kernel_is_not_in_use(
    available: bool,
    spec: object,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(info_module, "backend", lambda _: "torch")
    monkeypatch.setattr(info_module.library, "is_available", lambda: available)
    monkeypatch.setattr(info_module, "find_spec", lambda _: spec)
    monkeypatch.setenv("HEAR_AXLSTM_BACKEND", "torch")
    info_module.info(("axlstm_tiny",))
    assert re.search(reason, capsys.readouterr().out)


def test_mistakes_get_one_line(tmp_path: Path, typed: Callable[..., tuple[int, str, str]]) -> None:
    for arguments in (
        ("pack", str(tmp_path / "nowhere"), str(tmp_path / "out")),
        ("pretrain", str(tmp_path / "nowhere"), "--run", str(tmp_path / "run")),
        ("pretrain", "--recipe", "axlstm_tiny"),
        ("plot", str(tmp_path)),
        ("finetune", str(tmp_path / "nowhere.csv"), "--out", str(tmp_path / "run")),
        ("predict", str(tmp_path), str(tmp_path)),
        ("export", str(tmp_path / "model.tflite")),
    ):
        code, _, errors = typed(*arguments)
        assert code == 2, arguments
        assert errors.startswith("axlstm: error: ") and "Traceback" not in errors
    result = run("info", "axlstm_huge")
    assert result.returncode == 2 and result.stderr.startswith("axlstm: error: ")


@pytest.mark.parametrize("option", ["--knn", "--init"])
def test_missing_files_are_found_before_audio_is_packed(
    option: str, typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    new, missing = tmp_path / "run", str(tmp_path / "missing.csv")
    code, _, errors = typed("pretrain", str(tmp_path), "--run", str(new), option, missing)
    assert code == 2 and missing in errors and not new.exists()


def test_no_memory_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def info() -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "load", lambda *_: info)
    monkeypatch.setattr(sys, "argv", ["axlstm", "info"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "axlstm: error: out of memory: process less audio at once\n"


def test_a_folder_of_audio_becomes_a_model(tmp_path: Path) -> None:
    audio, run_folder = tmp_path / "audio", tmp_path / "run"
    audio.mkdir()
    time = np.arange(32_000) / 16_000
    for index in range(4):
        tone = 0.5 * np.sin(2 * np.pi * 220 * (index + 1) * time)
        soundfile.write(audio / f"{index}.wav", tone, 16_000)
    result = run(
        *("pretrain", str(audio), "--run", str(run_folder), "--model", "axlstm_tiny"),
        *("--epochs", "2", "--batch-size", "4", "--expansion", "2", "--patch", "8", "16"),
    )
    assert result.returncode == 0, result.stderr
    model = load_model(str(run_folder))
    assert (model.config.expansion, model.config.patch) == (2, (8, 16))
    assert "model.safetensors" in result.stdout


def test_labels_that_the_terminal_can_not_show_cost_nothing(tmp_path: Path) -> None:
    classifier = Classifier(ModelConfig(dim=16, depth=1), Labels(("B\u00e4r", "\u732b"), False))
    classifier.save(tmp_path / "classifier.safetensors", {})
    soundfile.write(os.fsencode(tmp_path) + b"/caf\xe9.wav", np.sin(np.arange(800)), 16_000,
                    format="WAV")  # fmt: skip
    command = [sys.executable, "-m", "hear_axlstm", "predict", str(tmp_path), str(tmp_path)]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert result.returncode == 0, result.stderr
    assert "caf\\udce9.wav" in result.stdout and "\\u732b" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_pipe_that_ends_early_is_no_error() -> None:
    script = f"set -o pipefail; {shlex.quote(AXLSTM)} info --json | head -c 1"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout, found.stderr) == (0, "[", "")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/a.npy", "not a directory: a parent folder is a file, choose another name"),
        ("x" * 300 + ".npy", "file name too long: choose a shorter name"),
        ("folder.npy", "folder.npy is a folder: choose another name"),
    ],
)
def test_outputs_that_can_t_be_written(
    out: str, message: str, typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npy").mkdir()
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(800) / 9, 16_000)
    code, printed, error = typed("embed", str(tmp_path / "a.wav"), "--out", str(tmp_path / out))
    assert (code, printed) == (2, "") and message in error
    assert "Errno" not in error and "embedding" not in error  # nothing was computed in vain
