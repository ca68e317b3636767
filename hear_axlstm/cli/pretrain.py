"""`axlstm pretrain`: train an encoder without labels, or estimate the cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from hear_axlstm.audio.sources import open_source
from hear_axlstm.data.corpus import Corpus, is_pack
from hear_axlstm.data.pack import pack as pack_audio
from hear_axlstm.files import sole_writer
from hear_axlstm.options import option
from hear_axlstm.pretrain.config import PretrainConfig, Variant
from hear_axlstm.pretrain.estimate import estimate_run
from hear_axlstm.pretrain.recipes import RECIPES, settings_of
from hear_axlstm.pretrain.resume import check_run_folder, has_weights
from hear_axlstm.pretrain.run import check_files
from hear_axlstm.pretrain.run import pretrain as train
from hear_axlstm.training.distributed import is_first_process
from hear_axlstm.training.resume import LOCK, Resume
from hear_axlstm.training.signals import is_under_torchrun


def defaults(arguments: Sequence[str]) -> dict[str, Any]:
    """Defaults of the command's options: the settings of the recipe that the arguments name."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", nargs="?")
    name = parser.parse_known_args(arguments)[0].recipe
    return {} if name is None else {"config": settings_of(name)}


def pretrain(
    data: Annotated[Path | None, tyro.conf.Positional, option("[SOURCE]")] = None,
    *,
    run: Annotated[Path | None, option("OUT")] = None,
    recipe: Annotated[str | None, option("NAME")] = None,
    estimate: bool = False,
    variant: Annotated[Variant, tyro.conf.arg(name="")],
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")],
    resume: Resume = "auto",
) -> None:
    """Pretrain an encoder on audio, without labels.

    For several GPUs: `torchrun --nproc-per-node 8 -m -- hear_axlstm pretrain ...`.

    Args:
        data: Folder written by `axlstm pack`, or a folder of audio, which is packed into OUT/pack;
            a run that is resumed keeps its pack.
        run: Folder for the log, checkpoints and the final weights.
        recipe: One of the paper's runs, or open-corpus; options given here override it, except
            model options of the paper's runs.
        estimate: Only print parameters, FLOPs, memory, disk space and hours, measured within a
            minute; for AudioSet if no data is given.
        variant: The encoder to train.
        config: Settings; the defaults are those of the recipe, or the paper's.
        resume: "auto" resumes the run in this folder, if any; "never" raises an error.
    """
    if recipe not in RECIPES:
        config = replace(config, model=variant.build())
    elif variant.changes:
        changes = ", ".join(variant.changes)
        raise ValueError(f"recipe {recipe!r} defines the model: leave out {changes}")
    if estimate:
        print(estimate_run(config, None if data is None else Corpus(data)))
        return
    if data is None or run is None:
        raise ValueError(
            "pretraining needs data and a folder for the run: axlstm pretrain SOURCE --run OUT"
        )
    if is_pack(data):
        packed = data
    elif is_under_torchrun():
        raise ValueError(f"{data} is not a pack: make one with `axlstm pack` before torchrun")
    else:
        check_files(config, run)  # before hours of packing
        packed = _pack(data, run)
    weights = train(config, packed, run, resume)
    if is_first_process():
        print(f"weights: {weights}\nnext: load_model({str(weights)!r}) in Python")


def _pack(audio: Path, run: Path) -> Path:
    """Pack audio into the run's folder, unless the run has been trained on its pack already.

    Raises:
        SourceError, TableError: if there is no audio.
        ValueError: if the folder has files of others that would be replaced.
        BlockingIOError: if another process is packing or training there.
    """
    if str(audio) != "-":  # standard input can be read only once
        open_source(audio)  # raises before a folder is made
    check_run_folder(run)
    run.mkdir(parents=True, exist_ok=True)
    with sole_writer(run, LOCK):
        report = pack_audio(audio, run / "pack", update=not has_weights(run))
    print(report)
    return report.output
