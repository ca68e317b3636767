"""The online probe: how well nearest neighbors name the classes of a small labeled set.

Shapes: n clips, D' embedding size, C classes.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hear_axlstm.audio.io import AUDIO_SUFFIXES, load_audio
from hear_axlstm.embed.embedder import Embedder

NEIGHBORS = 5
SPLITS = ("train", "test")


class ProbeError(ValueError):
    """A labeled set that can't be used; the message names the remedy."""


@dataclass(frozen=True)
class LabeledClips:
    """Audio files with one label each."""

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    test: tuple[bool, ...] | None
    """Which clips are scored against the others; None scores each against all others."""

    def score(self, embedder: Embedder) -> float:
        """Share of the clips that their nearest neighbors name correctly.

        Files are read anew each time, so that a probe holds no audio in memory.

        Raises:
            AudioError: for a file that gives no usable audio.
        """
        device = next(embedder.parameters()).device
        scenes = []
        with torch.no_grad():
            for path in tqdm(self.paths, desc="probe", unit="clip", leave=False):
                samples = torch.from_numpy(load_audio(path, embedder.sample_rate))
                scenes.append(embedder.scene(samples[None].to(device))[0].cpu())
        names, classes = np.unique(self.labels, return_inverse=True)
        right = _is_right(torch.stack(scenes), torch.from_numpy(classes), len(names), self.test)
        return right.float().mean().item()


def read_labeled(source: str | Path) -> LabeledClips:
    """Find labeled clips.

    Args:
        source: a CSV with the columns path (relative to it) and label, perhaps also split, train or
            test; or a folder with one subfolder of audio a class.

    Raises:
        ProbeError: if there is nothing to score, or a file is missing.
    """
    source = Path(source)
    if source.is_dir():
        clips = _from_folder(source)
    elif source.is_file():
        clips = _from_csv(source)
    else:
        raise ProbeError(f"probe={source} does not exist: give a CSV, or a folder of classes")
    if len(set(clips.labels)) < 2:
        raise ProbeError(f"probe={source} has {len(set(clips.labels))} class(es): give two or more")
    if clips.test is not None and (all(clips.test) or not any(clips.test)):
        raise ProbeError(f"probe={source} needs clips of both splits, train and test")
    if missing := [path for path in clips.paths if not path.is_file()]:
        raise ProbeError(
            f"probe={source} names {len(missing)} missing file(s), the first is {missing[0]}"
        )
    return clips


def _from_folder(folder: Path) -> LabeledClips:
    found = sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() in AUDIO_SUFFIXES)
    labels = tuple(path.relative_to(folder).parts[0] for path in found)
    return LabeledClips(tuple(found), labels, None)


def _from_csv(file: Path) -> LabeledClips:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except UnicodeDecodeError:
        raise ProbeError(f"probe={file} is not UTF-8 text: save it as CSV in UTF-8") from None
    if not rows or not {"path", "label"} <= set(rows[0]):
        raise ProbeError(f"probe={file} needs a header with path and label, and a row a clip")
    test = None
    if "split" in rows[0]:
        if odd := {row["split"] for row in rows} - set(SPLITS):
            raise ProbeError(f"probe={file}: split {sorted(map(str, odd))} is neither of {SPLITS}")
        test = tuple(row["split"] == "test" for row in rows)
    paths = tuple(file.parent / row["path"] for row in rows)
    return LabeledClips(paths, tuple(row["label"] for row in rows), test)


def _is_right(
    scenes_nD: Tensor, classes_n: Tensor, classes: int, test: tuple[bool, ...] | None
) -> Tensor:
    """Whether the nearest neighbors of each scored clip name its class, bool ``[n scored]``.

    Embeddings share a large common part, which would make all cosines nearly 1: the mean of the
    neighbors-to-be is subtracted first. Each neighbor votes with 1 + its cosine.
    """
    scored = torch.ones(len(scenes_nD), dtype=torch.bool) if test is None else torch.tensor(test)
    known = scored if test is None else ~scored
    centered = scenes_nD - scenes_nD[known].mean(0)
    unit = torch.nn.functional.normalize(centered.double(), dim=1)
    cosines = unit[scored] @ unit[known].T
    if test is None:
        cosines.fill_diagonal_(-torch.inf)  # not its own neighbor
    others = int(known.sum()) - (test is None)
    top = cosines.topk(min(NEIGHBORS, others), dim=1)
    votes = torch.zeros(len(cosines), classes, dtype=torch.float64)
    votes.scatter_add_(1, classes_n[known][top.indices], 1 + top.values)
    return votes.argmax(1) == classes_n[scored]
