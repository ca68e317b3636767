"""`axlstm predict`: the most probable classes of audio files."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import torch
import tyro
from torch import Tensor

from hear_axlstm.audio.clips import AudioClip, Source
from hear_axlstm.audio.skipped import Skipped, summary
from hear_axlstm.audio.sources import open_source
from hear_axlstm.audio.tables import OPEN_CSV
from hear_axlstm.cli import SOME_FAILED
from hear_axlstm.embed.scenes import iter_scenes
from hear_axlstm.files import replacing
from hear_axlstm.finetune.classifier import Classifier, load_classifier
from hear_axlstm.options import option
from hear_axlstm.training.device import choose_device


def predict(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    inputs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(name="source", metavar="SOURCE...", help_behavior_hint=""),
    ],
    *,
    out: Annotated[Path | None, option("CSV")] = None,
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 3,
    path_column: Annotated[str | None, option("COLUMN")] = None,
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto",
) -> None:
    """Write the most probable classes of audio files as CSV.

    Files that are broken, silent or shorter than 25 ms are listed at the end, and the exit code is
    then 3.

    Args:
        model: File that `axlstm finetune` wrote, or the folder of its run.
        inputs: Files, folders, patterns, CSV or TSV files, tars, or - for paths on standard input,
            as for `axlstm embed`.
        out: Output CSV (default: standard output).
        top: Number of classes to list for each file.
        path_column: Column of paths in a CSV (default: a usual name such as path or filename).
        device: "auto" (CUDA if available, then Apple's MPS, then the CPU), or e.g. "cuda:1".
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1")
    if out is not None and out.suffix.lower() != ".csv":
        raise ValueError(f"--out {out} is not a CSV: choose a name that ends in .csv")
    source = open_source(inputs, path_column)
    classifier = load_classifier(model).to(choose_device(device))
    with _open(out) as file:
        broken, number = _write(file, classifier, source, min(top, len(classifier.labels.classes)))
    if broken:
        _report(broken, number)
        sys.exit(SOME_FAILED)


def _write(
    file: TextIO, classifier: Classifier, source: Source, top: int
) -> tuple[list[Skipped], int]:
    """Write a row per clip; returns the clips without one, and the number of all clips."""
    writer = csv.writer(file, lineterminator="\n")
    ranks = range(1, top + 1)
    writer.writerow(["path", *(f"{name}_{n}" for n in ranks for name in ("label", "probability"))])
    broken, number = [], 0
    for clip, scene in iter_scenes(classifier, source.clips()):
        number += 1
        if isinstance(scene, Tensor):
            writer.writerow([_name(clip), *_top(classifier, scene, top)])
        else:
            broken.append(Skipped(_name(clip), scene.reason))
    return broken, number


def _name(clip: AudioClip | Skipped) -> str:
    """Name of a clip in the output: a whole file's path, or the id of anything else."""
    if isinstance(clip, AudioClip) and isinstance(clip.source, str):
        return clip.id if clip.start or clip.end is not None else clip.source
    return clip.id


def _report(broken: list[Skipped], clips: int) -> None:
    for skip in broken:
        print(f"  {skip.id}: {skip.reason}", file=sys.stderr)
    kinds = dict(Counter(skip.kind for skip in broken).most_common())
    print(f"axlstm: {summary(clips - len(broken), kinds, 'listed above')}", file=sys.stderr)


@contextmanager
def _open(out: Path | None) -> Iterator[TextIO]:
    """Open the output: a file that appears when it is complete, or standard output."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as partial, open(partial, "w", **OPEN_CSV) as file:
        yield file


@torch.no_grad()
def _top(classifier: Classifier, scene_D: Tensor, top: int) -> Iterator[str]:
    """Names and probabilities of the most probable classes, alternating."""
    best = classifier.to_probabilities(classifier.logits(scene_D[None]))[0].topk(top)
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        yield classifier.labels.classes[index]
        yield f"{probability:.4f}"
