"""heareval's scores of scene tasks (heareval.score), on any device.

They agree to 1e-6 with its functions, including ties and undefined classes, but accuracies and mAP
are computed over all clips and classes at once.

Shapes: N clips, C classes. predictions and targets are ``[N, C]``, targets 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from sklearn.metrics import roc_auc_score
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
    ordered, order = predictions.sort(0, descending=True)
    hits = targets.double().gather(0, order)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1).to(hits)[:, None]
    at_end = precision.gather(0, _ends_of_ties(ordered))
    return float(((at_end * hits).sum(0) / hits.sum(0).clamp(min=1)).mean())


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
    """Areas under the ROC curves, ``[C]``; NaN for a class with only one outcome."""
    columns = zip(targets.cpu().numpy().T, predictions.cpu().numpy().T, strict=True)
    areas = [roc_auc_score(t, p) if 0 < t.sum() < len(t) else math.nan for t, p in columns]
    return torch.tensor(areas, dtype=torch.float64)


def _ends_of_ties(ordered: Tensor) -> Tensor:
    """Place of the last of the equal values around each value of sorted columns."""
    places = torch.arange(len(ordered), device=ordered.device)[:, None].expand_as(ordered)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return places.where(last, len(ordered)).flip(0).cummin(0).values.flip(0)
