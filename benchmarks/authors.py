"""`python -m benchmarks.authors CHECKOUT`: the authors' own code compared with this package.

CHECKOUT is a clone of https://github.com/SarthakYadav/axlstm-official. Its imports need einops,
ml_collections and the Python part of torchaudio. Nothing else should run: other work slows many
small operations more than a few large ones. The share is the fraction of the products' peak
rate, counting the FLOPs of `training_flops`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

import hear_axlstm
from benchmarks.tables import show
from benchmarks.timing import Work, in_turns, machine, product_rate
from hear_axlstm.config import preset
from hear_axlstm.models.patch_embed import random_mask
from hear_axlstm.models.pretraining import MaskedPatchModel, training_flops
from hear_axlstm.ops.precision import product_dtype
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.step import make_train_step
from hear_axlstm.training.device import keep_freed_memory
from hear_axlstm.training.distributed import DistContext

RATE, CPU = 16_000, torch.device("cpu")
Precision = Literal["float32", "bfloat16"]


def main(
    checkout: tyro.conf.Positional[Path],
    work: Literal["embed", "train"] = "embed",
    presets: tuple[str, ...] = ("axlstm_tiny", "axlstm_small", "axlstm_base"),
    precision: Precision = "float32",
    clips: int = 8,
    seconds: float = 10.0,
    rounds: int = 3,
    one_by_one: bool = False,
) -> None:
    """Print a Markdown table of rates, in float32 or bfloat16 autocast; medians over the rounds.

    Args:
        checkout: The authors' code.
        work: Scene embeddings, or optimizer steps.
        presets: Models, with random weights.
        precision: Precision of both.
        clips: Clips of a batch; crops of 2 s in training.
        seconds: Length of a clip to embed.
        rounds: Repetitions.
        one_by_one: Embed one clip after another.
    """
    keep_freed_memory()  # for both
    _import_authors(checkout)
    peak = product_rate(product_dtype(precision, CPU), CPU)
    unit = "x real time" if work == "embed" else "clips/s"
    amount = clips * (seconds if work == "embed" else 1.0)

    def row(name: str) -> list[str]:
        if work == "embed":
            audio = 0.1 * torch.randn(clips, int(RATE * seconds))
            pair = _embedding(name, audio.split(1) if one_by_one else (audio,), precision)
        else:
            pair = _training(name, clips, precision)
        works = dict(zip(("authors", "here"), pair, strict=True))
        theirs, ours = (amount / s for s in in_turns(works, rounds, CPU).values())
        flops = training_flops(preset(name))  # of a crop of 2 s, a third of it forward
        share = ours * (flops / 6 if work == "embed" else flops) / peak
        return [name, f"{theirs:.1f}", f"{ours:.1f}", f"{ours / theirs:.2f}", f"{share:.0%}"]

    show(
        f"{machine(CPU)}; products of matrices: {peak / 1e9:.0f} GFLOP/s",
        (f"{work}, {unit}, {clips} clips", "authors", "here", "ratio", "share"),
        map(row, presets),
    )


def _embedding(name: str, parts: tuple[Tensor, ...], precision: Precision) -> tuple[Work, Work]:
    runtime = importlib.import_module("hear_api.runtime")
    api: Any = object.__new__(runtime.RuntimeSSAST)  # its constructor reads a checkpoint
    torch.nn.Module.__init__(api)
    api.model, api.config = _authors_model(name).eval(), {}
    api.autocast_dtype, api.autocast_enabled = torch.bfloat16, precision == "bfloat16"
    api.input_size, api.grid_size = api.model.img_size, api.model.grid_size()
    api.patch_size, api.embed_dim = api.model.patch_size(), api.model.embed_dim
    api.sample_rate, api.frequency_first = RATE, api.model.frequency_first
    api.log_mel_spec = runtime.LogMelSpec(flip_ft=not api.frequency_first)
    api._cpu_mel_spec = False
    model = hear_axlstm.load_model(f"{name}.random", precision=precision)

    def authors() -> None:
        with torch.no_grad():
            for part in parts:
                api.get_scene_embeddings(part)

    def ours() -> None:
        for part in parts:
            hear_axlstm.get_scene_embeddings(part, model)

    return authors, ours


def _training(name: str, clips: int, precision: Precision) -> tuple[Work, Work]:
    loss_of = importlib.import_module("src.loss").mae_loss
    theirs, mel = _authors_model(name).train(), torch.randn(clips, 200, 80)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4)

    def authors() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(*theirs(mel[:, None])[:3])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    model = preset(name)
    config = PretrainConfig(model=model, batch_size=clips, precision=precision, clip_norm=1.0)
    step = make_train_step(MaskedPatchModel(model), config, DistContext(CPU))
    mask = random_mask(clips, model.grid[0] * model.grid[1], model.mask_ratio)
    return authors, lambda: step.step((mel, mask), 0, lambda _: 1e-4)


def _authors_model(name: str) -> Any:
    family, size = name.split("_")
    make = getattr(
        importlib.import_module("src.models"), f"{'xlstm_' * (family == 'axlstm')}ssast_{size}"
    )
    expansion = {"expansion_factor": 3} if family == "axlstm" else {}
    settings = {"img_size": (200, 80), "patch_size": (4, 16), "mask_ratio": 0.5}
    with contextlib.redirect_stdout(io.StringIO()):
        return make(**settings, frequency_first=False, **expansion)


def _import_authors(checkout: Path) -> None:
    """Import their code without timm and torchaudio's native part, which these models don't use."""
    none = torch.nn.Identity
    found = dict.fromkeys(("_IS_TORCHAUDIO_EXT_AVAILABLE", "_IS_RNNT_AVAILABLE"), False)
    calls = dict.fromkeys(("fail_if_no_align", "fail_if_no_rnnt"), lambda function: function)
    extension = {**found, **calls, "_IS_ALIGN_AVAILABLE": False, "_check_cuda_version": lambda: 0}
    initializers = ("lecun_normal_", "trunc_normal_tf_", "trunc_normal_", "variance_scaling_")
    stand_ins: dict[str, dict[str, Any]] = {
        "torchaudio._extension": extension,
        "timm": {},
        "timm.models": {},
        "timm.layers": {},
        "timm.models.vision_transformer": {"LayerScale": none, "DropPath": none},
        "timm.layers.weight_init": dict.fromkeys(initializers, none),
    }
    for name, members in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    torch.cuda.get_device_name = lambda *_: "cpu"  # their modules ask for it when imported
    sys.path.insert(0, str(checkout))
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module("src.models")
        importlib.import_module("hear_api.runtime")


if __name__ == "__main__":
    tyro.cli(main)
