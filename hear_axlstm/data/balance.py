"""Sampling weights: how often an epoch draws each clip, so that no folder dominates training."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from hear_axlstm.data.corpus import Corpus


def balanced_draws(
    corpus: Corpus, clips: NDArray[np.int64], balance: float
) -> NDArray[np.float64] | None:
    """Expected number of draws of each clip in an epoch with one draw per clip on average.

    Clips belong to the top-level folder of their path, below the part that all paths share. A
    folder of n clips gets a share of the draws that is proportional to n ** (1 - balance), as
    Conneau et al. (2020) sample languages; clips of one folder are drawn equally often.

    Args:
        corpus: the packed clips.
        clips: the clips to draw from, as positions in the corpus' index.
        balance: 0 draws every clip once, 1 every folder equally often.

    Returns:
        Expected draws, in the order of `clips`, or None if each is drawn once.

    Raises:
        ValueError: if balance is above 0 and all clips are in one folder.
    """
    if not balance:
        return None
    ids = list(corpus.index.ids())
    parents = [ids[clip].split(b"/")[:-1] for clip in clips.tolist()]
    ends = zip(min(parents), max(parents), strict=False)  # all others are between these
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    folders = [b"".join(parent[shared : shared + 1]) for parent in parents]
    names, folder, size = np.unique(folders, return_inverse=True, return_counts=True)
    if len(names) < 2:
        only = b"/".join(parents[0]).decode("utf-8", "replace") or "the corpus folder itself"
        raise ValueError(
            f"balance={balance:g} needs a corpus of several top-level folders, but all clips are "
            f"in {only!r}: pack such a corpus, or leave balance out"
        )
    share = size ** (1.0 - balance)
    return (len(clips) * share / share.sum() / size)[folder]


def draw(
    clips: NDArray[np.int64], expected: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw an epoch of clips, each as often as expected, rounded down or up.

    Systematic sampling: the clips are laid end to end, each as long as its expected number of
    draws, and one is drawn at every unit step from a random start. Their order is random among
    those that are expected equally often, which keeps a folder together, and so its share exact.
    """
    order = rng.permutation(len(clips))
    order = order[expected[order].argsort(kind="stable")]
    ends = expected[order].cumsum()
    ends[-1] = len(clips)  # removes the sum's rounding error
    total = np.floor(ends + rng.random()).astype(np.int64)  # draws up to and including each clip
    return clips[order].repeat(total - np.concatenate(([0], total[:-1])))
