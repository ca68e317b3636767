"""From a labeled CSV to a classifier in a folder: split, embed, train, score, write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm import load_model
from hear_axlstm.audio.listing import Skipped
from hear_axlstm.finetune.classifier import FILE_NAME, Classifier, load_classifier
from hear_axlstm.finetune.config import MLP_WIDTH, FinetuneConfig
from hear_axlstm.finetune.dataset import Dataset, check, read_dataset, without_broken
from hear_axlstm.finetune.embeddings import embed
from hear_axlstm.finetune.full import CHECKPOINT, LOG, logits_of, train_through
from hear_axlstm.finetune.heads import train_head
from hear_axlstm.finetune.metrics import check_libraries, draw_confusion, scores
from hear_axlstm.training.device import choose_device

CONFUSION, SCORES, SETTINGS = "confusion.png", "scores.json", "config.json"
MAY_CHANGE = ("device", "precision")  # a run may go on elsewhere

Scores = dict[str, dict[str, float]]


def finetune(train: Path, out: Path, config: FinetuneConfig) -> Scores:
    """Train a classifier on labeled clips.

    `out` gets classifier.safetensors, scores.json, config.json, a log a stage, and, unless
    multilabel, confusion.png of the test clips, or of the validation clips where there is no test.

    Args:
        train: CSV, see `read_dataset`.
        out: folder of this run; the same call again resumes or repeats it.
        config: settings.

    Returns:
        Scores of the splits valid and, where there is one, test.

    Raises:
        ModuleNotFoundError: without the extra `finetune`.
        ValueError: for clips or settings that can't be trained with, or another run in `out`.
        Interrupted: if "full" was asked to stop, with everything saved.
    """
    check_libraries()
    train, out = Path(train), Path(out)
    dataset = read_dataset(train, config)
    _claim(out, config, dataset)
    device = choose_device(config.device)
    embedder = load_model(config.model)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        hidden = MLP_WIDTH if config.mode == "mlp" else 0
        classifier = Classifier(embedder.config, dataset.labels, hidden, config.dropout)
        classifier.encoder = embedder.encoder
        classifier.eval().to(device)
        dataset, embeddings = _embed(classifier, dataset, train, config)
        if not (out / CHECKPOINT).exists():
            pairs = {split: (x, dataset.targets(split)) for split, x in embeddings.items()}
            log = out / ("probe.jsonl" if config.mode == "full" else LOG)
            train_head(classifier, pairs["train"], pairs["valid"], config, log)
    if config.mode == "full":
        train_through(classifier, dataset, config, out)
        classifier = load_classifier(out).to(device)
    found: Scores = {}
    for split in [split for split in dataset.splits if split != "train"]:
        if config.mode == "full":
            logits = logits_of(classifier, dataset.splits[split])
        else:
            with torch.no_grad():
                logits = classifier.head(embeddings[split].to(device)).cpu()
        found[split] = scores(dataset.labels, logits, dataset.targets(split))
    if not config.multilabel:  # of the last split
        draw_confusion(dataset.labels, logits, dataset.targets(split), out / CONFUSION)
    classifier.save(out / FILE_NAME, {"scores": found, "settings": config.to_dict()})
    (out / SCORES).write_text(json.dumps(found, indent=2) + "\n")
    return found


def _embed(
    classifier: Classifier, dataset: Dataset, train: Path, config: FinetuneConfig
) -> tuple[Dataset, dict[str, Tensor]]:
    """The clips that can be decoded, and their embeddings ``[n, D']``, split by split."""
    clips = [clip for members in dataset.splits.values() for clip in members]
    embedded = dict(zip(clips, embed(classifier, clips), strict=True))
    good = [isinstance(embedded[clip], Tensor) for clip in clips]
    reasons = [
        f"{clip.source!s}: {skipped.reason}"
        for clip, skipped in embedded.items()
        if isinstance(skipped, Skipped)
    ]
    usable = set(without_broken(clips, reasons, good, config.skip_broken))
    left = {s: tuple(clip for clip in old if clip in usable) for s, old in dataset.splits.items()}
    dataset = check(replace(dataset, splits=left), train)
    scenes = {s: [embedded[clip] for clip in members] for s, members in left.items()}
    return dataset, {
        split: torch.stack([scene for scene in of_split if isinstance(scene, Tensor)])
        for split, of_split in scenes.items()
    }


def _claim(out: Path, config: FinetuneConfig, dataset: Dataset) -> None:
    """Make the folder, or see that what was trained in it had the same settings and clips."""
    clips = repr(
        [(s, [(c.source, c.start, c.end, c.labels) for c in m]) for s, m in dataset.splits.items()]
    )
    settings = {**config.to_dict(), "clips": hashlib.sha256(clips.encode()).hexdigest()[:16]}
    path = out / SETTINGS
    if path.exists() and any((out / name).exists() for name in (CHECKPOINT, FILE_NAME)):
        before = json.loads(path.read_text())
        differs = [k for k in settings if k not in MAY_CHANGE and settings[k] != before.get(k)]
        if differs:
            raise ValueError(
                f"{out} holds a fine-tuning with another {', '.join(differs)}: choose a new folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")
