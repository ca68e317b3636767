"""A fine-tuning run, from a labeled CSV to a scored classifier in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hear_axlstm import load_model
from hear_axlstm.audio.skipped import REPORT_NAME, Skipped, summary, write_report
from hear_axlstm.checkpoints.format import read_settings
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.files import write_text
from hear_axlstm.finetune.classifier import CLASSIFIER_FILE, Classifier, load_classifier, logits_of
from hear_axlstm.finetune.config import MLP_WIDTH, FinetuneConfig, Mode
from hear_axlstm.finetune.dataset import Dataset, check, class_names, read_dataset, report_broken
from hear_axlstm.finetune.embedding_cache import cached_scenes
from hear_axlstm.finetune.full import train_encoder
from hear_axlstm.finetune.heads import train_head
from hear_axlstm.finetune.metrics import check_libraries, draw_confusion, scores
from hear_axlstm.training.checkpoint_manager import list_checkpoints
from hear_axlstm.training.device import used_generators
from hear_axlstm.training.distributed import init_distributed
from hear_axlstm.training.logging import LOG_NAME
from hear_axlstm.training.resume import CHECKPOINTS, check_folder, lock_dir
from hear_axlstm.wording import plural

CONFUSION, SCORES, SETTINGS = "confusion.png", "scores.json", "config.json"
SCORED = "scores"  # among the facts in the header of a finished classifier
HEAD_LOG = "head.jsonl"  # of the first stage of mode "full"


@dataclass(frozen=True)
class FinetuneReport:
    """Scores of a classifier, and summary of the clips that were left out."""

    folder: Path
    clips: int
    scores: Mapping[str, Mapping[str, float]]
    """Scores of the splits valid and, if there is one, test, by metric."""
    skipped: Mapping[str, int]
    """Number of files that were left out, by kind of reason; report.csv lists them."""

    def __str__(self) -> str:
        lines = [
            f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            for split, found in self.scores.items()
        ]
        missing = summary(self.clips, self.skipped, f"see {self.folder / REPORT_NAME}")
        return "\n".join([*lines, missing] if missing else lines)


def finetune(train: Path, out: Path, config: FinetuneConfig) -> FinetuneReport:
    """Train a classifier on labeled clips.

    Writes classifier.safetensors, scores.json, config.json, a log per stage and, unless multilabel,
    confusion.png of the test clips (or the validation clips if there are none) to `out`.

    Args:
        train: CSV, see `read_dataset`.
        out: folder of this run; repeating the call resumes an interrupted run.
        config: settings.

    Raises:
        ModuleNotFoundError: without the extra `finetune`.
        ValueError: for unusable clips or settings, or a different run in `out`.
        Interrupted: after a request to stop in mode "full", with everything saved.
    """
    check_libraries()
    train, out = Path(train), Path(out)
    dataset = read_dataset(train, config)
    with init_distributed(config.device, config.threads) as context, lock_dir(out, context):
        if context.size > 1:
            raise ValueError("fine-tuning runs in one process: start it without torchrun")
        _claim(out, config, dataset)
        embedder = load_model(config.model, pooling=config.pooling).to(context.device)
        dataset, embeddings = _embed(embedder, dataset, train, config)
        if not (config.mode == "full" and _is_finished(out)):
            classifier = _with_head(embedder, dataset, embeddings, config, out)
            if config.mode == "full":
                train_encoder(classifier, dataset, config, out, context)
        if config.mode == "full":
            classifier = load_classifier(out).to(context.device)
        if classifier.labels != dataset.labels:  # files have been repaired or damaged since
            raise ValueError(f"{out} has a classifier of other classes: choose a new folder")
        logits = _logits(classifier, dataset, embeddings, config.mode)
        return _write(classifier, dataset, logits, config, out)


def _is_finished(out: Path) -> bool:
    """Whether a classifier has been trained and scored, and its checkpoints deleted."""
    path = out / CLASSIFIER_FILE
    if not path.is_file() or list_checkpoints(out / CHECKPOINTS):
        return False
    return SCORED in read_settings(path)[1]


def _with_head(
    embedder: Embedder,
    dataset: Dataset,
    embeddings: Mapping[str, Tensor],
    config: FinetuneConfig,
    out: Path,
) -> Classifier:
    """Make a classifier from an embedder, and train its head, unless a checkpoint contains it."""
    with torch.random.fork_rng(used_generators(embedder.device)):
        torch.manual_seed(config.seed)
        hidden = MLP_WIDTH if config.mode == "mlp" else 0
        classifier = Classifier(embedder.config, dataset.labels, hidden, config.dropout)
        classifier.encoder = embedder.encoder
        classifier.eval().to(embedder.device)
        if not list_checkpoints(out / CHECKPOINTS):
            pairs = {split: (x, dataset.targets(split)) for split, x in embeddings.items()}
            log = out / (HEAD_LOG if config.mode == "full" else LOG_NAME)
            train_head(classifier, pairs["train"], pairs["valid"], _of_head(config), log)
    return classifier


def _of_head(config: FinetuneConfig) -> FinetuneConfig:
    """The settings of the head; in mode "full", some of them are those of the second stage."""
    if config.mode != "full":
        return config
    return replace(config, epochs=None, patience=None, batch_size=None)


def _logits(
    classifier: Classifier, dataset: Dataset, embeddings: Mapping[str, Tensor], mode: Mode
) -> dict[str, Tensor]:
    """Logits of the splits to score: from the clips if the encoder was trained too."""
    splits = {split: clips for split, clips in dataset.splits.items() if split != "train"}
    if mode == "full":
        return {split: logits_of(classifier, clips) for split, clips in splits.items()}
    with torch.no_grad():
        return {split: classifier.logits(embeddings[split]).cpu() for split in splits}


def _write(
    classifier: Classifier,
    dataset: Dataset,
    logits: Mapping[str, Tensor],
    config: FinetuneConfig,
    out: Path,
) -> FinetuneReport:
    """Write the classifier, the scores of the splits, and the last split's confusion matrix."""
    targets = {split: dataset.targets(split) for split in logits}
    found = {s: scores(dataset.labels, logits[s], targets[s]) for s in logits}
    classifier.save(out / CLASSIFIER_FILE, {SCORED: found, "settings": config.to_dict()})
    write_text(out / SCORES, json.dumps(found, indent=2) + "\n")
    (out / REPORT_NAME).unlink(missing_ok=True)
    if dataset.left_out:
        write_report(out / REPORT_NAME, dataset.left_out)
    if not config.multilabel:
        split = list(logits)[-1]
        clips, accuracy = plural(len(targets[split]), "clip"), found[split]["accuracy"]
        title = f"{split}: {clips}, accuracy {accuracy:.1%}"
        path = out / CONFUSION
        draw_confusion(dataset.labels, logits[split], targets[split], title, path)
    kept = sum(map(len, dataset.splits.values()))
    return FinetuneReport(out, kept, found, Counter(skip.kind for skip in dataset.left_out))


def _embed(
    embedder: Embedder, dataset: Dataset, train: Path, config: FinetuneConfig
) -> tuple[Dataset, dict[str, Tensor]]:
    """Embed all splits; returns the decodable clips and their embeddings ``[n, D']``."""
    clips = [clip for members in dataset.splits.values() for clip in members]
    embedded = dict(zip(clips, cached_scenes(embedder, clips), strict=True))
    broken = [
        Skipped(str(clip.source), scene.reason)
        for clip, scene in embedded.items()
        if isinstance(scene, Skipped)
    ]
    skipped = (*dataset.left_out, *broken)
    report_broken(skipped, config.skip_broken)
    left = {
        split: tuple(clip for clip in members if isinstance(embedded[clip], Tensor))
        for split, members in dataset.splits.items()
    }
    labels = replace(dataset.labels, classes=class_names(left["train"]))
    dataset = check(Dataset(labels, left, skipped), train)
    scenes = {s: [embedded[clip] for clip in members] for s, members in left.items()}
    return dataset, {
        split: torch.stack([scene for scene in of_split if isinstance(scene, Tensor)])
        for split, of_split in scenes.items()
    }


def _claim(out: Path, config: FinetuneConfig, dataset: Dataset) -> None:
    """Check that an earlier run in the folder had the same settings and clips, and record them.

    Raises:
        ValueError: if it had others, or the folder has files of others that would be replaced.
    """
    path = out / SETTINGS
    settings = {**config.to_dict(), "clips": dataset.fingerprint}
    written = (CLASSIFIER_FILE, SCORES, CONFUSION, REPORT_NAME, LOG_NAME, HEAD_LOG, CHECKPOINTS)
    check_folder(out, SETTINGS, ("mode", "clips"), written)
    trained = (out / CLASSIFIER_FILE).exists() or list_checkpoints(out / CHECKPOINTS)
    if path.exists() and trained:
        before = json.loads(path.read_text("utf-8"))
        differs = config.conflicts(before)
        differs += ["clips"] if before.get("clips") != dataset.fingerprint else []
        if differs:
            raise ValueError(
                f"{out} has a run with other settings ({', '.join(differs)}): choose a new folder"
            )
    write_text(path, json.dumps(settings, indent=2) + "\n")
