"""heareval's scores of scene tasks (heareval.score), over all classes at once and on any device.

They agree to 1e-6 with its functions, which loop over clips or classes, including ties and
undefined classes.

Shapes: N clips, C classes. predictions and targets are ``[N, C]``, targets 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

CHROMA = 12  # pitch classes of an octave


def top1_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Fraction of clips whose highest prediction (the first, if tied) is their first label."""
    return _share(predictions.argmax(1) == targets.argmax(1))


def chroma_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Top-1 accuracy that ignores the octave; classes are semitones."""
    return _share(predictions.argmax(1) % CHROMA == targets.argmax(1) % CHROMA)


def mean_average_precision(predictions: Tensor, targets: Tensor) -> float:
    """Average precision, averaged over classes; 0 for classes without clips, as in scikit-learn."""
    ranks = _Ranks(predictions, targets)
    precision = ranks.positives_to_here / torch.arange(1, len(targets) + 1).to(targets)[:, None]
    at_end = precision.gather(0, ranks.last_equal)
    return float(((at_end * ranks.hits).sum(0) / ranks.positives.clamp(min=1)).mean())


def aucroc(predictions: Tensor, targets: Tensor) -> float:
    """Area under the ROC curve, averaged over classes; NaN if a class has only one outcome."""
    return float(_areas(predictions, targets).mean())


def d_prime(predictions: Tensor, targets: Tensor) -> float:
    """d', sqrt(2) times the normal quantile of the area, averaged over classes; may be infinite."""
    return float((math.sqrt(2) * torch.special.ndtri(_areas(predictions, targets))).mean())


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "top1_acc": top1_accuracy,
    "pitch_acc": top1_accuracy,
    "chroma_acc": chroma_accuracy,
    "mAP": mean_average_precision,
    "aucroc": aucroc,
    "d_prime": d_prime,
}


def score(name: str, predictions: Tensor, targets: Tensor) -> float:
    """Compute the named score, in the precision of heareval's logger.

    All but d' are float32 there, so smaller differences are not an improvement.
    """
    value = METRICS[name](predictions, targets)
    return value if name == "d_prime" else torch.tensor(value).item()


def _share(correct: Tensor) -> float:
    return correct.sum().item() / len(correct)


def _areas(predictions: Tensor, targets: Tensor) -> Tensor:
    """Areas under the ROC curves, ``[C]``; ties count half."""
    ranks = _Ranks(predictions, targets)
    negatives = len(targets) - ranks.positives
    place = torch.arange(1, len(targets) + 1).to(targets)[:, None]
    misses = 1 - ranks.hits
    above = (place - ranks.positives_to_here).gather(0, ranks.first_equal)
    above -= misses.gather(0, ranks.first_equal)
    up_to_ties = (place - ranks.positives_to_here).gather(0, ranks.last_equal)
    below = negatives - (above + up_to_ties) / 2
    return (below * ranks.hits).sum(0) / (ranks.positives * negatives)


class _Ranks:
    """Clips of each class by decreasing prediction, with the bounds of each group of ties."""

    def __init__(self, predictions: Tensor, targets: Tensor) -> None:
        ordered, order = predictions.sort(0, descending=True)
        self.hits = targets.double().gather(0, order)
        self.positives = self.hits.sum(0)
        self.positives_to_here = self.hits.cumsum(0)
        places = torch.arange(len(ordered), device=ordered.device)[:, None].expand_as(ordered)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.first_equal = places.where(new, 0).cummax(0).values
        last = torch.ones_like(new)
        last[:-1] = new[1:]
        self.last_equal = places.where(last, len(ordered)).flip(0).cummin(0).values.flip(0)
