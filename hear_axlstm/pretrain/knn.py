"""kNN evaluation: how well nearest neighbors predict the classes of a small labeled set.

Shapes: n clips, D' embedding size, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.errors import AudioError
from hear_axlstm.audio.labels import LabelsError, read_labeled, refuse_overlap
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import FolderSource
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.scenes import iter_scenes
from hear_axlstm.wording import plural

NEIGHBORS = 5
SPLITS = ("train", "test")


@dataclass(frozen=True)
class LabeledClips:
    """Audio clips with one label each."""

    clips: tuple[AudioClip, ...]
    test: tuple[bool, ...] | None
    """Mask of the clips to classify by the others; None classifies each by all others."""

    def score(self, embedder: Embedder) -> float:
        """Return the fraction of clips classified correctly by their nearest neighbors.

        Files are read again each time, so that no audio stays in memory.

        Raises:
            AudioError: for a file without usable audio.
        """
        found = [scene for _, scene in iter_scenes(embedder, self.clips)]
        if broken := [scene for scene in found if isinstance(scene, Skipped)]:
            more = f" (and {plural(len(broken) - 1, 'other file')})" if len(broken) > 1 else ""
            raise AudioError(f"{broken[0].id}: {broken[0].reason}{more}")
        scenes = [scene for scene in found if isinstance(scene, Tensor)]
        named = [clip.labels[0] for clip in self.clips]
        names, classes = np.unique(named, return_inverse=True)
        right = _is_right(torch.stack(scenes), torch.from_numpy(classes), len(names), self.test)
        return right.float().mean().item()


def find_labeled_clips(source: str | Path) -> LabeledClips:
    """Find the clips to score.

    Args:
        source: a CSV with the columns path (relative to it) and label, and optionally split (train
            or test); or a folder with one subfolder of audio per class.

    Raises:
        LabelsError: if there is nothing to score, or a file is missing.
        TableError, SourceError: for a CSV or folder that can't be used.
    """
    source = Path(source)
    if source.is_dir():
        found = [clip for clip in FolderSource(source).clips() if isinstance(clip, AudioClip)]
        clips = LabeledClips(tuple(clip for clip in found if clip.labels), None)
    elif source.is_file():
        rows, _ = read_labeled(source)
        splits = {row.split for row in rows}
        if splits - {"", *SPLITS}:
            raise LabelsError(f"knn={source}: each split must be one of {', '.join(SPLITS)}")
        test = tuple(row.split == "test" for row in rows) if splits != {""} else None
        tested = [row.clip for row in rows if row.split == "test"]
        known = [row.clip for row in rows if row.split != "test"]
        refuse_overlap(f"knn={source}", {"train": known, "test": tested})
        clips = LabeledClips(tuple(row.clip for row in rows), test)
    else:
        raise LabelsError(f"knn={source} does not exist: give a CSV, or a folder of classes")
    classes = len({clip.labels[0] for clip in clips.clips})
    if classes < 2:
        raise LabelsError(f"knn={source} has {plural(classes, 'class')}: two or more are needed")
    if clips.test is not None and (all(clips.test) or not any(clips.test)):
        raise LabelsError(f"knn={source} needs clips of both splits, train and test")
    missing = [clip.source for clip in clips.clips if not Path(str(clip.source)).is_file()]
    if missing:
        raise LabelsError(
            f"knn={source} lists {plural(len(missing), 'missing file')}, e.g. {missing[0]!s}: "
            "check the paths"
        )
    return clips


def _is_right(
    scenes_nD: Tensor, classes_n: Tensor, classes: int, test: tuple[bool, ...] | None
) -> Tensor:
    """Whether the nearest neighbors of each scored clip predict its class, bool ``[n scored]``.

    Embeddings share a large common part that would make all cosines close to 1, so the mean of the
    candidates is subtracted first. Each neighbor votes with weight 1 + its cosine.
    """
    tests = (True,) * len(scenes_nD) if test is None else test
    scored = torch.tensor(tests, dtype=torch.bool, device=scenes_nD.device)
    known = scored if test is None else ~scored
    centered = scenes_nD - scenes_nD[known].mean(0)
    unit = torch.nn.functional.normalize(centered.double(), dim=1)
    cosines = unit[scored] @ unit[known].T
    if test is None:
        cosines.fill_diagonal_(-torch.inf)  # not its own neighbor
    others = int(known.sum()) - (test is None)
    top = cosines.topk(min(NEIGHBORS, others), dim=1)
    votes = torch.zeros(len(cosines), classes, dtype=torch.float64, device=cosines.device)
    votes.scatter_add_(1, classes_n[known][top.indices], 1 + top.values)
    return votes.argmax(1) == classes_n[scored]
