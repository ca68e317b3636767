"""Training a head on frozen embeddings.

Shapes: n clips, D' embedding size, C classes.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm.finetune.classifier import Classifier, Head
from hear_axlstm.finetune.config import FinetuneConfig
from hear_axlstm.finetune.early_stopping import Best
from hear_axlstm.finetune.metrics import loss, named, scores
from hear_axlstm.progress import Progress
from hear_axlstm.training.logging import JsonLines
from hear_axlstm.training.trainer import DivergedError

EPOCHS, PATIENCE, BATCH_SIZE = 200, 20, 64
SMALLEST_STD = 1e-3  # relative to the mean; keeps constant channels from being amplified


def train_head(
    classifier: Classifier,
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    config: FinetuneConfig,
    log: Path,
) -> None:
    """Train the classifier's head and load its best state.

    Args:
        classifier: on any device; its encoder is not used.
        train: embeddings ``[n, D']`` and targets.
        valid: embeddings and targets for early stopping.
        config: settings.
        log: JSONL file to write, with one line per epoch.

    Raises:
        DivergedError: if the logits are no longer finite.
    """
    device = classifier.head.mean.device
    scenes_nD, targets = (t.to(device) for t in train)
    head = classifier.head
    _fit_statistics(head, scenes_nD)
    optimizer = torch.optim.AdamW(
        head.parameters(), config.head_lr, weight_decay=config.weight_decay
    )
    best, kept = Best(config.watched), copy.deepcopy(head.state_dict())
    size = config.batch_size or BATCH_SIZE
    epochs = config.epochs or EPOCHS
    lines = JsonLines(log, step=None)
    bar = Progress(range(1, epochs + 1), "head", unit="epoch")
    for epoch in bar:
        total, used = torch.zeros((), dtype=torch.float32, device=device), 0
        head.train()
        for rows in torch.randperm(len(targets)).to(device).split(size):
            if len(rows) == 1 and classifier.hidden:
                continue  # batch norm needs two or more
            value = loss(classifier.labels, head(scenes_nD[rows]), targets[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.detach() * len(rows)
            used += len(rows)
        head.eval()
        with torch.no_grad():
            logits = head(valid[0].to(device)).cpu()
        if not logits.isfinite().all():
            raise DivergedError(
                f"the logits are not finite after epoch {epoch}: lower lr, now {config.head_lr:g}"
            )
        found = scores(classifier.labels, logits, valid[1])
        mean = total.item() / max(1, used)
        lines.write(step=epoch, epoch=epoch, loss=mean, **named("valid", found))
        if best.take(found):
            kept = copy.deepcopy(head.state_dict())
        bar.set_postfix_str(f"best {best.metric} {best.score:.3f}", refresh=False)
        if best.waited >= (config.patience or PATIENCE):
            bar.close()
            break
    head.load_state_dict(kept)


def _fit_statistics(head: Head, scenes_nD: Tensor) -> None:
    """Set the mean and standard deviation used to standardize embeddings."""
    head.mean.copy_(scenes_nD.mean(0))
    std = scenes_nD.std(0, correction=0)
    head.std.copy_(std.clamp(min=SMALLEST_STD * std.mean() + torch.finfo(std.dtype).tiny))
