"""Metrics of a classifier, computed with scikit-learn.

Shapes: n clips, C classes.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as nnf

from hear_axlstm.finetune.classifier import Labels
from hear_axlstm.wording import unformatted

MISSING = (
    "fine-tuning needs scikit-learn and matplotlib: run pip install '.[finetune]' in the clone"
)
CELL_INCHES = 0.22
LARGEST_SIDE = 30.0  # inches; its pixels would fill the memory with thousands of classes
NAMES_UP_TO = 150  # classes; with more, there is no room for their names
NUMBERS_UP_TO = 20  # classes; with more, the cells are too small for numbers


def check_libraries() -> None:
    """Check that the optional libraries are installed, before any work is done.

    Raises:
        ModuleNotFoundError: naming the extra to install.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING) from error


def loss(labels: Labels, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over clips or, if multilabel, over clips and classes."""
    if labels.multilabel:
        return nnf.binary_cross_entropy_with_logits(logits, targets)
    return nnf.cross_entropy(logits, targets)


def scores(labels: Labels, logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Loss, mAP and AUC and, for one class per clip, also accuracy and balanced accuracy.

    mAP and AUC are means over the classes with both positive and negative clips, or NaN if there
    are none.

    Args:
        labels: classes of the classifier.
        logits: ``[n, C]`` on the CPU.
        targets: targets from `Dataset.targets`.
    """
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        balanced_accuracy_score,
        roc_auc_score,
    )

    found = {"loss": loss(labels, logits, targets).item()}
    if not labels.multilabel:
        guess = logits.argmax(1).numpy()
        found["accuracy"] = float(accuracy_score(targets, guess))
        # scikit-learn warns about predicted classes without clips, which are rightly ignored
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found["balanced_accuracy"] = float(balanced_accuracy_score(targets, guess))
    is_class = targets if labels.multilabel else nnf.one_hot(targets, len(labels.classes))
    score = logits.sigmoid() if labels.multilabel else logits.softmax(1)
    defined = ((is_class.sum(0) > 0) & (is_class.sum(0) < len(targets))).nonzero()[:, 0]
    for name, measure in (("mAP", average_precision_score), ("AUC", roc_auc_score)):
        pair = is_class[:, defined].numpy(), score[:, defined].numpy()
        found[name] = float(measure(*pair, average="macro")) if len(defined) else math.nan
    return found


def draw_confusion(labels: Labels, logits: Tensor, targets: Tensor, title: str, path: Path) -> None:
    """Draw the confusion matrix: colors are shares of a row, numbers are clip counts.

    Args:
        labels: classes of the classifier.
        logits: ``[n, C]`` on the CPU.
        targets: class indices ``[n]``.
        title: title of the picture.
        path: path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    classes = len(labels.classes)
    counts = confusion_matrix(targets, logits.argmax(1), labels=range(classes))
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    names = [unformatted(name) for name in labels.classes] if classes <= NAMES_UP_TO else None
    side = min(4.0 + CELL_INCHES * classes, LARGEST_SIDE)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(
        ax=axis, include_values=False, xticks_rotation="vertical", cmap="Blues", colorbar=False
    )
    if classes <= NUMBERS_UP_TO:
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, counts[row, column], ha="center", va="center", color=shade)
    if classes > NAMES_UP_TO:
        axis.set(xticks=[], yticks=[])
    axis.set(xlabel="predicted class", ylabel="class", title=unformatted(title))
    figure.savefig(path, dpi=110)


def named(split: str, found: dict[str, float]) -> dict[str, float]:
    """Prefix the names of scores with the split, as in the log."""
    return {f"{split}_{name}": value for name, value in found.items()}
