"""`axlstm predict`: what a classifier hears in audio files."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
import tyro
from torch import Tensor

from hear_axlstm.audio.io import AUDIO_SUFFIXES, AudioError
from hear_axlstm.embed.scenes import Span, scenes_of
from hear_axlstm.files import replacing
from hear_axlstm.finetune.classifier import Classifier, load_classifier
from hear_axlstm.training.device import choose_device

BROKEN = 3  # exit code where some files gave no audio and the others were served


def predict(
    model: tyro.conf.Positional[Path],
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    top: int = 3,
    device: str = "auto",
) -> None:
    """Write the most probable classes of audio files as CSV.

    Files that give no usable audio are listed at the end; then the exit code is 3.

    Args:
        model: File that `axlstm finetune` wrote, or the folder of its run.
        inputs: Audio files, and folders that are searched for them.
        out: CSV to write, once all are heard; printed by default.
        top: So many classes of each file.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1")
    if out is not None and out.suffix.lower() != ".csv":
        raise ValueError(f"--out {out} is no CSV: let its name end in .csv")
    paths = list(_files(inputs))
    if not paths:
        raise ValueError("nothing to predict: name audio files, or folders of them")
    classifier = load_classifier(model).to(choose_device(device))
    broken: list[str] = []
    with _open(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        top = min(top, len(classifier.labels.classes))
        names = [
            f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "probability")
        ]
        writer.writerow(["path", *names])
        for path, scene in zip(paths, scenes_of(classifier, list(map(Span, paths))), strict=True):
            if isinstance(scene, AudioError):
                broken.append(str(scene))
            else:
                writer.writerow([path, *_top(classifier, scene, top)])
    if broken:
        listed = "\n  ".join(broken)
        print(f"axlstm: {len(broken)} file(s) left out:\n  {listed}", file=sys.stderr)
        sys.exit(BROKEN)


@contextmanager
def _open(out: Path | None) -> Iterator[TextIO]:
    """Where rows go: a file that appears when it is whole, or the screen."""
    if out is None:
        yield sys.stdout
        return
    with replacing(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        yield file


@torch.no_grad()
def _top(classifier: Classifier, scene_D: Tensor, top: int) -> Iterator[str]:
    """Name and probability of the most probable classes, in turn."""
    logits = classifier.head(scene_D.to(classifier.head.mean.device)[None])
    best = classifier.to_probabilities(logits)[0].topk(top)
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        yield classifier.labels.classes[index]
        yield f"{probability:.4f}"


def _files(inputs: Iterable[Path]) -> Iterator[Path]:
    """Files as given, and the audio files below folders."""
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            if not inside:
                raise ValueError(f"{path} holds no audio file: give others")
            yield from inside
        else:
            yield path
