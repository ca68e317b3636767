"""The command line: `axlstm info | pack | pretrain | plot`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from hear_axlstm.config import PRESETS, ModelConfig, preset
from hear_axlstm.data.corpus import Corpus, is_pack
from hear_axlstm.data.estimate import estimate as forecast
from hear_axlstm.data.pack import pack as pack_audio
from hear_axlstm.pretrain.config import PretrainConfig
from hear_axlstm.pretrain.distributed import OtherRankError, is_first_process
from hear_axlstm.pretrain.estimate import estimate as cost_card
from hear_axlstm.pretrain.interrupt import Interrupted, is_under_torchrun
from hear_axlstm.pretrain.loop import pretrain as train
from hear_axlstm.pretrain.plot import plot as draw_curves
from hear_axlstm.pretrain.recipes import from_recipe
from hear_axlstm.pretrain.start import Resume
from hear_axlstm.reconstruction import ReconstructionModel

INFO_COLUMNS = ("name", "parameters", "dim", "depth", "heads", "patch", "scene_embedding_size")


def info(
    presets: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """List the presets: parameters, widths, patch and embedding sizes.

    Args:
        presets: Names to list, all by default.
        as_json: Print JSON, with every setting, instead of a table.
    """
    rows = [_describe(name, preset(name)) for name in presets or PRESETS]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    cells = [INFO_COLUMNS, *(tuple(_cell(row[c]) for c in INFO_COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())


def pack(
    audio: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    workers: int | None = None,
    dry_run: bool = False,
) -> None:
    """Pack audio into log-mel shards for pretraining.

    Args:
        audio: Folder that is searched for audio files, all below it included; or a .csv or .tsv
            with the column path, optionally start and end in seconds; or WebDataset tars, paths or
            URLs, e.g. 'train-{000..127}.tar'.
        out: Folder to write; packing the same audio into it again resumes or does nothing.
        workers: Processes, by default one a core.
        dry_run: Only tell the hours, disk and time that it will take, from a small sample.
    """
    if dry_run:
        print(forecast(audio, out, workers=workers))
        return
    print(pack_audio(audio, out, workers=workers))
    print(f"next: axlstm pretrain {out} --run runs/my-run")


def pretrain(
    data: tyro.conf.Positional[Path | None] = None,
    *,
    run: Path | None = None,
    recipe: str | None = None,
    estimate: bool = False,
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")],
    resume: Resume = "auto",
) -> None:
    """Pretrain an encoder on audio, without labels.

    Several processes, one a GPU: `torchrun --nproc-per-node 8 -m -- hear_axlstm.cli pretrain ...`.

    Args:
        data: Folder that `axlstm pack` wrote, or a folder of audio, packed first into RUN/pack.
        run: Folder for log, checkpoints and the final weights.
        recipe: One of the paper's runs by name; other settings given here override its own.
        estimate: Don't train: print parameters, FLOPs, memory, disk and, measured within a minute,
            hours, for AudioSet if no data are given.
        config: Settings; the defaults are the paper's.
        resume: "auto" goes on where the run in this folder was left; "never" refuses to.
    """
    if recipe is not None:
        config = from_recipe(recipe, config)
    if estimate:
        print(cost_card(config, None if data is None else Corpus(data)))
        return
    if data is None or run is None:
        raise ValueError("pretraining needs data and a run: axlstm pretrain DATA --run RUN")
    if is_pack(data):
        packed = data
    elif is_under_torchrun():
        raise ValueError(f"{data} is no pack: before torchrun, make one with `axlstm pack`")
    else:
        packed = pack_audio(data, run / "pack").folder
    weights = train(config, packed, run, resume)
    if is_first_process():
        print(f"weights: {weights}\nnext: load_model({str(weights)!r}) in Python")


def plot(runs: tyro.conf.Positional[tuple[Path, ...]], *, out: Path = Path("curves.png")) -> None:
    """Draw the curves of one or more runs: losses, learning rate, gradient norm, probe.

    Args:
        runs: Folders of runs, in progress or finished.
        out: PNG to write.
    """
    print(f"curves: {draw_curves(runs, out)}")


def main() -> None:
    """Entry point of `axlstm`: exits with 2 and one line for anything the user can mend."""
    level = logging.INFO if is_first_process() else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level)
    commands: dict[str, Callable[..., Any]] = {
        "info": info,
        "pack": pack,
        "pretrain": pretrain,
        "plot": plot,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="axlstm",
            description="Audio embeddings from an xLSTM.",
            config=(tyro.conf.OmitArgPrefixes,),
            console_outputs=is_first_process(),
        )
    except Interrupted as stop:
        if is_first_process():
            print(f"axlstm: {stop}", file=sys.stderr)
        sys.exit(0 if is_under_torchrun() else 130)  # torchrun would start a failed one again
    except OtherRankError:
        sys.exit(1)  # the other one explains itself
    except KeyboardInterrupt:
        print("axlstm: interrupted: give the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        print(f"axlstm: error: {error}", file=sys.stderr)
        sys.exit(2)


def _describe(name: str, config: ModelConfig) -> dict[str, Any]:
    with torch.device("meta"):  # sizes only: base would take a second and 350 MB
        parameters = sum(p.numel() for p in ReconstructionModel(config).parameters())
    return {
        "name": name,
        "parameters": parameters,
        "scene_embedding_size": config.embedding_size,
        "timestamp_embedding_size": config.embedding_size,
        "sample_rate": config.mel.sample_rate,
        "step_ms": 1000 * config.step_seconds,
        **config.to_dict(),
    }


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    main()
