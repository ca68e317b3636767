"""Several ranks: they learn what one does, stop together, and fail with one voice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hear_axlstm.data.dataset import CropDataset, share
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.run import pretrain
from hear_axlstm.training.checkpoint_manager import load_latest
from hear_axlstm.training.device import choose_device
from hear_axlstm.training.logging import read_log
from hear_axlstm.training.signals import Interrupted
from tests.helpers.platforms import die, posix_only
from tests.helpers.runs import CONFIG, curve, run_ranks, same_weights

UNEVEN = replace(CONFIG, batch_size=7, micro_batch=3, epochs=1.5, clip_norm=1.0)  # 12 steps


def train(config: PretrainConfig, data: Path, run: Path, act: Callable[..., None]) -> None:
    """Train, do `act(rank)` before the batch of step 5, and leave a note on how it ended."""
    rank = int(os.environ["RANK"])
    make = CropDataset.batch

    def batch(self: CropDataset, step: int, *share: int) -> torch.Tensor:
        if step == 5 and self.batch_size == config.batch_size:
            act(rank)
        return make(self, step, *share)

    CropDataset.batch = batch  # type: ignore[method-assign]
    note = {"error": None, "group": False}
    try:
        pretrain(config, data, run)
    except (Exception, SystemExit) as error:
        note["error"] = f"{type(error).__name__}: {error}"
    note["group"] = torch.distributed.is_initialized()
    run.mkdir(exist_ok=True)
    (run / f"note-{rank}.json").write_text(json.dumps(note), "utf-8")


def nothing(rank: int) -> None: ...


def stop_one(rank: int) -> None:
    if rank == 1:
        signal.raise_signal(signal.SIGTERM)


def fail_one(rank: int) -> None:
    if rank == 1:
        raise OSError("the disk is gone")


def kill_one(rank: int) -> None:
    if rank == 1:
        die()


def train_two(data: Path, run: Path, act: Callable[..., None]) -> list[dict[str, Any]]:
    """The notes of two ranks, those that could leave one."""
    run_ranks(2, train, UNEVEN, data, run, act)
    return [json.loads(path.read_text("utf-8")) for path in sorted(run.glob("note-*.json"))]


@pytest.fixture(scope="module")
def two_ranks(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ranks") / "run"
    ended = train_two(tones, run, nothing)
    assert ended == [{"error": None, "group": False}] * 2
    return run


def test_two_ranks_learn_what_one_does(two_ranks: Path, tones: Path, tmp_path: Path) -> None:
    """With 3 and 4 clips of a batch, in one and two parts."""
    pretrain(UNEVEN, tones, tmp_path)
    together, alone = curve(two_ranks), curve(tmp_path)
    assert [line.keys() for line in together] == [line.keys() for line in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_signal_to_one_rank_stops_both_and_they_resume_exactly(
    two_ranks: Path, tones: Path, tmp_path: Path
) -> None:
    ended = train_two(tones, tmp_path, stop_one)
    assert all(note["error"].startswith(Interrupted.__name__) for note in ended)
    assert not any(note["group"] for note in ended)
    latest = load_latest(tmp_path / "checkpoints")
    assert latest is not None and 4 <= latest.step < 8
    train_two(tones, tmp_path, nothing)
    assert curve(tmp_path) == curve(two_ranks) and same_weights(tmp_path, two_ranks)


def test_one_rank_says_why_all_end(tones: Path, tmp_path: Path) -> None:
    ended = train_two(tones, tmp_path, fail_one)
    assert ended[0]["error"].startswith("OtherRankError")
    assert ended[1]["error"] == "OSError: the disk is gone"


def test_a_killed_rank_ends_the_other(tones: Path, tmp_path: Path) -> None:
    ended = train_two(tones, tmp_path, kill_one)
    assert len(ended) == 1 and "lost contact with another process" in ended[0]["error"]


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    ended = train_two(tmp_path, tmp_path / "run", nothing)
    errors = sorted(note["error"].split(":")[0] for note in ended)
    assert errors == ["OtherRankError", "PackError"]


def test_rows_are_shared_out() -> None:
    for total in (1, 7, 8):
        shares = [share(total, rank, 3) for rank in range(3)]
        assert [row for own in shares for row in range(total)[own]] == list(range(total))
        sizes = [own.stop - own.start for own in shares]
        assert max(sizes) - min(sizes) <= 1


def test_ranks_that_find_no_work_or_device_are_refused(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="a single device for 2 processes"):
        choose_device("cuda:1", local_rank=0, local_size=2)
    monkeypatch.setenv("WORLD_SIZE", "9")
    with pytest.raises(ValueError, match="batch_size=8"):
        pretrain(CONFIG, tones, tmp_path)


@posix_only
@pytest.mark.slow
def test_torchrun_stops_resumes_and_finishes(tones: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", "--signals-to-handle=SIGUSR1,SIGTERM,SIGINT"]
    command = [*torchrun, "-m", "--", "hear_axlstm", "pretrain", str(tones), "--run", str(run)]
    command += ["--model", "axlstm_tiny", "--expansion", "2", "--patch", "8", "16"]
    command += ["--epochs", "1", "--batch-size", "7", "--log-every", "2", "--device", "cpu"]

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not read_log(run / "log.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    message = process.communicate(timeout=120)[1]
    assert message.count("axlstm: stopped after step") == 1
    assert message.count("Traceback") == 1, "torchrun's own"

    refused = subprocess.run([*command, "--resume", "never"], capture_output=True, text=True)
    assert refused.returncode and refused.stderr.count("axlstm: error") == 1
    subprocess.run([*command, "--resume", "auto"], check=True)
    steps = [line["step"] for line in read_log(run / "log.jsonl") if "loss" in line]
    assert steps == [2, 4, 6, 8] and (run / "model.safetensors").exists()


RESTARTED = """
import os, sys
from pathlib import Path
from tests.training.test_distributed import UNEVEN, kill_one, nothing, train
first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
train(UNEVEN, Path(sys.argv[1]), Path(sys.argv[2]), kill_one if first else nothing)
"""


@pytest.mark.slow
def test_torchrun_starts_killed_ranks_again(two_ranks: Path, tones: Path, tmp_path: Path) -> None:
    script = tmp_path / "restarted.py"
    script.write_text(RESTARTED, "utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", "--max-restarts=1", str(script), str(tones), str(tmp_path)]
    root = str(Path(__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": root}
    subprocess.run(torchrun, check=True, timeout=300, env=environ)
    assert curve(tmp_path) == curve(two_ranks) and same_weights(tmp_path, two_ranks)


def test_a_restart_on_several_machines_needs_fresh_meeting_points(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        pretrain(CONFIG, tones, tmp_path)
