"""Reading official checkpoints: nothing in them runs, and what does not fit is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import msgpack
import pytest
import torch

from hearbench.systems import audiomae, beats, mwmae, passt, ssam, ssast
from hearbench.systems.parts.checkpoint import CheckpointError, read_checkpoint
from hearbench.systems.parts.flax_checkpoint import read_params
from tests.helpers import system_checkpoints as write


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    path, mark = tmp_path / "pretrained.pth", tmp_path / "mark"
    content = {"model": {"w": torch.zeros(2)}, "args": Hostile(f"touch {mark}")}
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="not a complete PyTorch checkpoint"):
            read_checkpoint(path)
    path.write_bytes(pickle.dumps(content["args"]))
    with pytest.raises(CheckpointError, match="not a complete PyTorch checkpoint"):
        read_checkpoint(path)
    assert not mark.exists()


def test_arguments_of_unknown_classes_are_stand_ins(tmp_path: Path) -> None:
    path = write.audiomae(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    content = read_checkpoint(path)
    assert type(content["args"]).__name__ == "argparse.Namespace"
    assert not hasattr(content["args"], "lr")


def edited(path: Path, change) -> str:
    """The checkpoint with its weights changed by a function."""
    content = torch.load(path, weights_only=False)
    change(content.get("model", content))
    torch.save(content, path)
    return str(path)


def test_missing_unknown_misshapen_and_broken_weights_are_named(tmp_path: Path) -> None:
    def without(tensors: dict) -> None:
        del tensors["blocks.0.norm1.weight"]

    def with_more(tensors: dict) -> None:
        tensors["blocks.0.norm9.weight"] = torch.zeros(1)

    def misshapen(tensors: dict) -> None:
        tensors["norm.bias"] = torch.zeros(63)

    def broken(tensors: dict) -> None:
        tensors["norm.bias"][3] = torch.nan

    def stretched(tensors: dict) -> None:
        tensors["pos_embed"] = torch.zeros(1).expand(1, 513, 64 << 20)

    messages = {
        without: "lacks blocks.0.norm1.weight",
        with_more: "has unknown blocks.0.norm9.weight",
        misshapen: r"norm.bias \[63\] instead of \[64\]",
        broken: "NaN or infinite weights: norm.bias",
        stretched: "'pos_embed' claims more values than the file holds",
    }
    for change, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            audiomae.load_model(edited(write.audiomae(tmp_path), change))


def test_a_block_in_the_middle_may_not_be_missing(tmp_path: Path) -> None:
    def without_block(tensors: dict) -> None:
        for name in [name for name in tensors if name.startswith("blocks.1.")]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"lacks blocks\.1"):
        passt.load_model(edited(write.passt(tmp_path, depth=3), without_block))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("deep_norm", False), ("activation_fn", "relu"), ("conv_pos", None), ("input_patch_size", 8)],
)
def test_beats_of_another_kind(tmp_path: Path, setting: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"cfg\\['{setting}'\\] is {value!r}"):
        beats.load_model(str(write.beats(tmp_path, **{setting: value})))


def test_sizes_are_counted_from_the_tensors(tmp_path: Path) -> None:
    model = passt.load_model(str(write.passt(tmp_path, dim=128, depth=3, classes=20)))
    assert len(model.transformer.blocks) == 3 and model.scene_embedding_size == 148
    assert model.transformer.blocks[0].attn.heads == 2
    with pytest.raises(CheckpointError, match="width 96 is not a multiple of 64"):
        passt.load_model(str(write.passt(tmp_path, dim=96)))
    with pytest.raises(CheckpointError, match="has 12 x 199 positions"):
        passt.load_model(str(write.passt(tmp_path, grid=(12, 199))))
    longer = passt.load_model(str(write.passt(tmp_path, grid=(12, 200))))
    assert (longer.window, longer.hop) == (640_000, 160_000)


def test_variants_load(tmp_path: Path) -> None:
    for patch in ((16, 16), (128, 2)):
        model = ssast.load_model(str(write.ssast(tmp_path, patch=patch)))
        assert ssast.get_scene_embeddings(torch.randn(1, 4000), model).shape == (1, 64)
    for variant in ({"finetuned": True}, {"positions": 1213}):
        model = audiomae.load_model(str(write.audiomae(tmp_path, **variant)))
        assert audiomae.get_scene_embeddings(torch.randn(1, 4000), model).shape == (1, 64)
    beats.load_model(str(write.beats(tmp_path, finetuned=True)))
    for number, variant in enumerate(({"class_token": True}, {"orbax": True})):
        run = write.mwmae(tmp_path / str(number), **variant)
        for path in (run, run / "checkpoint_20"):
            assert mwmae.load_model(str(path)).scene_embedding_size == 320
    run = write.ssam(tmp_path)
    for path in (run, run / "checkpoints", run / "checkpoints" / "checkpoint-100.pth"):
        assert ssam.load_model(str(path)).scene_embedding_size == 320


def test_flax_arrays(tmp_path: Path) -> None:
    array = torch.randn(2, 3)
    inner = {"a": array, "b": {"c": array.bfloat16()}}
    path = tmp_path / "checkpoint_1"
    content = {"opt_state": {"mu": array}, "params": inner, "step": 1}
    path.write_bytes(msgpack.packb(content, default=write.flax_array))
    params = read_params(path)
    assert params.keys() == {"a", "b/c"}
    assert torch.equal(params["a"], array)
    assert torch.equal(params["b/c"], array.bfloat16())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": "PLACEHOLDER://a"}, "'a' is stored in a separate folder"),
        ({"a": {"__msgpack_chunked_array__": True}}, "'a' is not an array of at most 1 GiB"),
        ({"a": msgpack.ExtType(1, msgpack.packb([[4], "float32", b"abc"]))}, "has 3 bytes"),
        (None, "contains no 'params'"),
    ],
)
def test_flax_files_that_cannot_be_read(tmp_path: Path, params: object, message: str) -> None:
    path = tmp_path / "checkpoint_1"
    path.write_bytes(msgpack.packb({"step": 1} if params is None else {"params": params}))
    with pytest.raises(CheckpointError, match=message):
        read_params(path)
