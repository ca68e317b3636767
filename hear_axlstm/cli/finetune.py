"""`axlstm finetune`: a classifier from labeled clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from hear_axlstm.finetune.classifier import CLASSIFIER_FILE
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.run import finetune as train_classifier


def finetune(
    train: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CSV")],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")],
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")],
) -> None:
    """Train a classifier on labeled clips: a head on frozen embeddings, or the whole encoder.

    Args:
        train: CSV with the columns path (relative to the CSV) and label; optionally start and end
            in seconds, fold, and split (train, valid or test).
        out: Folder for the classifier, its scores and the log.
        config: Settings.
    """
    report = train_classifier(train, out, config)
    file = out / CLASSIFIER_FILE
    print(f"classifier: {file}\nnext: axlstm predict {file} recordings/")
    print(report)
