"""Checkpoints of the reference release: the same embeddings, and nothing in them is run."""

from __future__ import annotations

import argparse
import contextlib
import copyreg
import functools
import json
import os
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hear_axlstm import checkpoints, get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_axlstm.checkpoints.authors.reference_release import read_release
from hear_axlstm.cli.convert import convert
from hear_axlstm.cli.info import info
from hear_axlstm.cli.push import push
from tests.helpers.release import State, random_state, reference_rows, save_checkpoint

KINDS = {
    "axlstm": {"dim": 64, "depth": 3, "patch": (4, 16), "expansion": 2},
    "axlstm, other patch": {"dim": 32, "depth": 2, "patch": (8, 16), "expansion": 3},
    "ssast": {"dim": 128, "depth": 2, "patch": (4, 16), "expansion": None, "mlp_ratio": 2},
}
AUDIO = torch.randn(2, 16_000 * 5 + 77, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.fixture
def state() -> State:
    return random_state(dim=32, depth=2, patch=(4, 16), expansion=2)


@pytest.fixture
def checkpoint(state: State, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "checkpoint-7.pth", state, 7)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_equal_the_release(kind: str, flip: bool, tmp_path: Path) -> None:
    state = random_state(**KINDS[kind])  # type: ignore[arg-type]
    path = save_checkpoint(tmp_path / "run/checkpoints/checkpoint-99.pth", state, 99)
    convert(tmp_path / "run", tmp_path / "out.safetensors", flip=flip)
    models = [load_model(str(tmp_path / "out.safetensors"))]
    models += [load_model(str(path))] if flip else []
    rows = reference_rows(state, AUDIO, flip)
    for model in models:
        scene = get_scene_embeddings(AUDIO, model)
        torch.testing.assert_close(scene, rows.mean(1), rtol=1e-4, atol=1e-4)
        steps, _ = get_timestamp_embeddings(AUDIO, model)
        torch.testing.assert_close(steps, rows[:, : steps.shape[1]], rtol=1e-4, atol=1e-4)
        assert rows.shape[1] - steps.shape[1] <= 1


def test_settings_are_read_off_the_shapes(tmp_path: Path) -> None:
    for kind in KINDS.values():
        state = random_state(**kind)  # type: ignore[arg-type]
        config, training, _ = read_release(save_checkpoint(tmp_path / "a.pth", state, 5), True)
        assert (config.dim, config.depth, config.patch) == (
            kind["dim"],
            kind["depth"],
            kind["patch"],
        )
        assert config.layout == "release" and config.window_frames == 200
        assert training["epoch"] == 5
        if kind["expansion"]:
            assert (config.expansion, config.heads, config.flip) == (kind["expansion"], 4, True)
        else:
            assert (config.mlp_ratio, config.heads) == (2, 2)


def test_a_run_means_its_latest_checkpoint(state: State, tmp_path: Path) -> None:
    for epoch in (9, 100, 20):
        save_checkpoint(tmp_path / f"checkpoints/checkpoint-{epoch}.pth", state, epoch)
    (tmp_path / "checkpoints/checkpoint-best.pth").touch()
    assert checkpoints.locate(str(tmp_path)).name == "checkpoint-100.pth"


def test_the_other_layout_can_be_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    released, by_time = (load_model(str(checkpoint), layout=x) for x in ("release", "time"))  # type: ignore[arg-type]
    rows, steps = (get_timestamp_embeddings(AUDIO, m)[0] for m in (released, by_time))
    window, dim = rows[:, :50].unflatten(2, (5, -1)), 5
    tokens = steps[:, :50].unflatten(2, (dim, -1)).flatten(1, 2)  # time-major, 250 of them
    for row in (0, 1, 49):
        torch.testing.assert_close(window[:, row], tokens[:, row::50], rtol=1e-4, atol=1e-4)
    convert(checkpoint, tmp_path / "out.safetensors", layout="time")
    assert load_model(str(tmp_path / "out.safetensors")).config.layout == "time"


def test_float16_checkpoints_and_parameters_are_read(state: State, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    half["blocks.0.norm.weight"] = half["blocks.0.norm.weight"].expand(2, -1)[1]  # a view
    tensors = read_release(save_checkpoint(tmp_path / "half.pth", half, 1), True)[2]
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    torch.testing.assert_close(
        tensors["encoder.blocks.0.norm.weight"], half["blocks.0.norm.weight"].float()
    )


def test_info_tells_the_layout(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(checkpoint, checkpoint.with_suffix(".safetensors"))
    for path in (checkpoint, checkpoint.with_suffix(".safetensors")):
        capsys.readouterr()
        info((str(path), "axlstm_tiny"))
        _, released, ours, *_ = capsys.readouterr().out.splitlines()
        assert "release" in released.split() and "time" in ours.split()
        info((str(path),), as_json=True)
        (facts,) = json.loads(capsys.readouterr().out)
        assert facts["layout"] == "release" and facts["flip"]
        assert facts["training"] == {"source": "reference release", "epoch": 7}


def test_commands_name_mistakes(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        convert(checkpoint, tmp_path / "out.pth")
    convert(checkpoint, out := tmp_path / "folder/out.safetensors")
    with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
        convert(out, out)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        convert(tmp_path / "folder", out)
    with pytest.raises(ValueError, match="use `axlstm convert` first"):
        push(str(checkpoint), "lab/a")


def test_other_models_are_refused_by_the_name_of_a_tensor(state: State, tmp_path: Path) -> None:
    key = "blocks.1.layer.proj_up.weight"
    changes: dict[str, tuple[State, str]] = {
        "missing": ({k: t for k, t in state.items() if k != key}, rf"no tensor '{key}'"),
        "unknown": (
            state | {"blocks.1.extra": torch.zeros(1)},
            r"unknown tensor 'blocks\.1\.extra'",
        ),
        "shape": (state | {key: torch.zeros(8, 32)}, rf"{key} has shape \(8, 32\)"),
        "positions": (
            state | {"pos_embed": state["pos_embed"].flip(1)},
            "differs from the release's positions",
        ),
        "integers": (
            state | {key: torch.zeros(2, dtype=torch.int64)},
            rf"'{key}' is not a tensor of",
        ),
        "empty": ({}, "no tensors under 'model'"),
        "rank": (state | {"patch_embed.proj.weight": torch.zeros(3)}, "another model"),
        "nothing": (
            state | {"patch_embed.proj.weight": torch.zeros(0, 1, 4, 16)},
            "is not a tensor of",
        ),
    }
    for kind, (changed, message) in changes.items():
        path = save_checkpoint(tmp_path / "other.pth", changed, 1)
        with pytest.raises(ValueError, match=message):
            load_model(str(path))
            pytest.fail(kind)
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="no tensors under 'model'"):
        load_model(str(tmp_path / "bare.pth"))


def test_damaged_and_legacy_files_are_refused(checkpoint: Path, state: State) -> None:
    whole = checkpoint.read_bytes()
    at = whole.index(state["blocks.0.norm.weight"].numpy().tobytes())
    for damaged in (whole[:-100], whole[:at] + b"\0\0\0\x40" + whole[at + 4 :]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"download it again"):
            load_model(str(checkpoint))
    torch.save({"model": state}, checkpoint, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"before 1\.6"):
        load_model(str(checkpoint))


class Call:
    """Pickles as a call of anything, perhaps with a state to be set afterwards."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts if self.parts[2] is not None else self.parts[:2]

    def __call__(self) -> None:
        raise NotImplementedError


def hostile(marker: Path) -> dict[str, Any]:
    """Objects whose unpickling leaves a marker."""
    shell, python = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    other = str(marker.with_suffix(".pkl"))
    return {
        "os.system": Call(os.system, shell),
        "exec": Call(exec, python),
        "eval": Call(eval, python),
        "in the state of an object": Call(argparse.Namespace, state={"x": Call(exec, python)}),
        "__setstate__ by a partial": Call(functools.partial(exec, python)),
        "getattr": Call(Call(getattr, Call(__import__, "os"), "system"), shell),
        "a method": Call(Path.touch, marker),
        "another torch.load": Call(functools.partial(torch.load, weights_only=False), other),
        "a dictionary's key": {Call(exec, python): 1},
    }


@pytest.mark.parametrize("kind", hostile(Path("unused")))
def test_a_hostile_pickle_does_not_run(kind: str, state: State, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    touch = Call(exec, f"open({str(marker)!r}, 'w').close()")
    marker.with_suffix(".pkl").write_bytes(pickle.dumps(touch))
    path = save_checkpoint(tmp_path / "a.pth", state, hostile(marker)[kind])  # type: ignore[arg-type]
    try:
        assert load_model(str(path)).config.dim == 32  # the rest is read all the same
    except ValueError as error:
        assert "\n" not in str(error)
    assert not marker.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert marker.exists()  # or else this test would prove nothing


class Settings(dict):
    """Like EasyDict: keys are attributes, too."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self[name] = value

    class Nested:
        """A class in a class."""


class Values(list):
    """A list of another class, with attributes."""


class Listed:
    """Pickles with a list as its state."""

    def __getstate__(self) -> list[int]:
        return [1]

    def __setstate__(self, state: object) -> None: ...


def configuration() -> list[Any]:
    """Configuration objects as trainings save them."""
    settings, values = Settings(lr=1e-3), Values([1, 2])
    settings.depth, values.flags = Settings(blocks=12), Settings()
    steps = defaultdict(list, {"loss": [1.0]})
    keys = {Path("a"): 1, np.int64(1): 2, b"c": 3, frozenset("d"): 4, Color.RED: 5}
    return [settings, values, steps, deque([1.0], 20), keys, Settings.Nested(), Listed(), Color.RED]


Color = Enum("Color", ["RED"])
PLAIN = {
    "configuration": configuration(),
    "a long tuple": tuple(range(1_500)),
    "numpy": (np.float64(1.5), np.int64(2), np.arange(3), np.dtype("float32")),
    "torch": (torch.Size([2]), torch.float16, torch.device("cpu"), torch.get_rng_state()),
    "collections": ({1, 2}, Counter("aab"), OrderedDict(a=1), 1j, b"x"),
    "keys": {0.5: 1, None: 2, True: 3, (1, 2): 4, 1 << 40: 5},
    "objects": argparse.Namespace(path=Path("runs"), lr=np.float32(1e-3), when=date(2025, 1, 1)),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_what_trainings_save_beside_the_weights(
    kind: str, prefix: str, state: State, tmp_path: Path
) -> None:
    half = {f"{prefix}{name}": tensor.half() for name, tensor in state.items()}
    path = save_checkpoint(tmp_path / "a.pth", half, 1, model_ema=state, more=PLAIN[kind])
    tensors = read_release(path, flip=True)[2]
    torch.testing.assert_close(tensors["head.0.bias"], state["pred.0.bias"].half().float())


def with_pickle(path: Path, data: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    """A copy of a checkpoint with another program in it."""
    out = path.with_suffix(".other.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compress) as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return out


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
TENSOR = b"\x80\x02}X\x05\0\0\0model}X\x01\0\0\0x" + REBUILD + b"(%s" + b"tRss."
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX%s%sX\x03\0\0\0cpuK\x01tQ"


def storage(key: bytes) -> bytes:
    return STORAGE % (len(key).to_bytes(4, "little"), key)


DOUBLE = b"q%ch%c\x86"  # a pair of the last value and itself


FORGED = {
    "changes the rebuild function": b"\x80\x02" + REBUILD + b"N}X\x01\0\0\0aNs\x86b.",
    "changes OrderedDict": b"\x80\x02ccollections\nOrderedDict\nN}X\x01\0\0\0aNs\x86b.",
    "an extension": b"\x80\x02\x82\xf0(X\x04\0\0\0truetR.",
    "a huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "deep nesting": b"\x80\x02}K\x01" + b"\x85" * 2_000_000 + b"Ns.",
    "bytes that are not there": b"\x80\x05\x96\0\0\0\0\0\x01\0\0.",
    "a stack that is empty": b"\x80\x020.",
    "nested descriptions of storages": b"\x80\x02}K\x01" + b"Q" * 200_000 + b"Ns.",
    "a key of tuples, doubled again and again": b"\x80\x02}N" + DOUBLE % (1, 1) * 60 + b"Ns.",
    "a set of such tuples": (b"\x80\x02cbuiltins\nset\n]N" + DOUBLE % (1, 1) * 60 + b"a\x85R."),
    "a call of nested lists": (b"\x80\x02]" + b"q\1]h\1ah\1a" * 60 + b")R."),
    "memory for the asking": b"\x80\x02c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R.",
    "a tensor for the asking": b"\x80\x02ctorch\nTensor\nJ\0\0\0\x7f\x85\x81.",
    "pairs as a state": b"\x80\x02ccollections\nOrderedDict\n)R]N" + b"K\1\x86a" + b"b.",
    "no pickle": b"import os",
    "nothing": b"",
    "no storage": TENSOR % b"NK\0(K\x01t(K\x01t",
    "a storage of another kind": TENSOR % b"K\x01QK\0(K\x01t(K\x01t",
    "a file elsewhere": TENSOR % (storage(b"../../../etc/passwd") + b"K\0(K\x01t(K\x01t"),
    "a huge expansion": TENSOR % (storage(b"0") + b"K\0(J\0\0\0\x40t(K\0t"),
    "values beyond the end": TENSOR % (storage(b"0") + b"J\0\0\0\x40(K\x01t(K\x01t"),
    "a negative offset": TENSOR % (storage(b"0") + b"J\xff\xff\xff\xff(K\x01t(K\x01t"),
    "a shape of other things": TENSOR % (storage(b"0") + b"K\0(Nt(K\x01t"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_checkpoints_get_one_line(
    kind: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(ValueError, match=r"(?s)other\.pth.*: (download|pass)") as caught:
            load_model(str(with_pickle(checkpoint, FORGED[kind])))
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    assert "\n" not in str(caught.value)
    load_model(str(checkpoint))  # nothing has changed for others


def test_threads_may_read_at_the_same_time(state: State, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a.pth", state, 1, more=PLAIN["objects"])
    with ThreadPoolExecutor(4) as pool:
        for config, _, _ in pool.map(lambda _: read_release(path, flip=True), range(40)):
            assert config.dim == 32
    names = [item[1] for item in torch.serialization.get_safe_globals() if isinstance(item, tuple)]
    assert "argparse.Namespace" not in names


def test_values_that_are_shared_take_no_memory(state: State, tmp_path: Path) -> None:
    shared = torch.zeros(1 << 18)  # 1 MB
    many = state | {f"blocks.0.extra.{n}": shared for n in range(3_000)}
    path = tmp_path / "shared.pth"
    torch.save({"model": many}, path)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="exceed the file"):
        load_model(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    huge = torch.zeros(1).expand(1 << 40, 1)
    torch.save({"model": state | {"pred.0.bias": huge}}, path)
    with pytest.raises(ValueError, match="exceed the file"):
        load_model(str(path))


def test_what_a_program_allows_pytorch_to_load_stays_out(state: State, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = save_checkpoint(tmp_path / "a.pth", state, Call(Path.touch, marker))  # type: ignore[arg-type]
    allowed = [Path.touch, (exec, "builtins.exec"), argparse.Namespace, type(marker)]
    others = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        with contextlib.suppress(ValueError):
            load_model(str(path))
        assert set(torch.serialization.get_safe_globals()) == others | set(allowed)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript
def test_compressed_archives_and_torchscript_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compressed"):
        load_model(str(with_pickle(checkpoint, b"\x80\x02}." * 999, zipfile.ZIP_DEFLATED)))
    script = tmp_path / "script.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    with pytest.raises(ValueError, match="can't be read as a PyTorch checkpoint"):
        load_model(str(script))
