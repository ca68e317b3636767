"""Where a pretraining run starts: the settings it keeps, and the checkpoint to resume from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hear_axlstm.checkpoints.format import FILE_NAME, read_settings
from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import split_validation
from hear_axlstm.pretrain.config import CONFIG, PretrainConfig
from hear_axlstm.training.checkpoint_manager import list_checkpoints, load_latest
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.logging import LOG_NAME
from hear_axlstm.training.resume import CHECKPOINTS, Resume, check_folder, find_resume

log = logging.getLogger(__name__)

OWN_KEYS = ("model", "base_lr", "seed")  # in the settings of pretraining runs alone


def with_kept_settings(config: PretrainConfig, corpus: Corpus, run: Path) -> PretrainConfig:
    """The config with batch size and warm-up, if not given, of the run to resume.

    A new run gets a batch size that suits the corpus.
    """
    if not has_weights(run):
        return config.for_corpus(len(split_validation(corpus)[0]))
    finished = _finished(run)
    settings = finished["config"] if finished else json.loads((run / CONFIG).read_text("utf-8"))
    before = PretrainConfig.from_dict(settings)
    if config.batch_size in (None, before.batch_size):
        lr = before.lr if config.lr is None else config.lr
        config = replace(config, batch_size=before.batch_size, lr=lr)
    if config.schedule == before.schedule == "wsd" and config.warmup_epochs is None:
        config = replace(config, warmup_epochs=before.warmup)
    return config


def check_run_folder(run: Path) -> None:
    """Raise if a run would replace files in its folder that no earlier run has written.

    Raises:
        ValueError: naming one of these files.
    """
    if _finished(run) is None:
        check_folder(run, CONFIG, OWN_KEYS, (LOG_NAME, CHECKPOINTS))


def has_weights(run: Path) -> bool:
    """Whether a folder has checkpoints, or the weights of a run that has been finished."""
    return bool(list_checkpoints(run / CHECKPOINTS)) or (run / FILE_NAME).exists()


def is_finished(config: PretrainConfig, corpus: Corpus, run: Path, resume: Resume) -> bool:
    """Whether this run has been finished, and its checkpoints deleted, e.g. to free space.

    Raises:
        ValueError: if the weights are those of another run, or `resume` is "never".
    """
    finished = _finished(run)
    if finished is None:
        return False
    path = run / FILE_NAME
    if resume == "never":
        raise ValueError(f"{path} contains the weights of a finished run: choose a new folder")
    if names := config.conflicts(finished["config"]):
        raise ValueError(
            f"{path} was trained with other settings ({', '.join(names)}), and there are no "
            "checkpoints to resume: choose a new folder"
        )
    if finished["corpus"] != corpus.fingerprint:
        raise ValueError(f"{path} was trained on other data: choose a new folder")
    log.info("%s is finished", run)
    return True


def _finished(run: Path) -> dict[str, Any] | None:
    """Facts about the training of the weights in a folder without checkpoints, if it has any.

    Raises:
        ValueError: if they are not those of a pretraining run.
    """
    path = run / FILE_NAME
    if not path.exists() or list_checkpoints(run / CHECKPOINTS):
        return None
    try:
        facts = read_settings(path)[1]
    except (FileNotFoundError, ValueError):
        facts = {}
    if not {"config", "corpus"} <= facts.keys():
        raise ValueError(f"{path} was not written by a pretraining run: choose a new folder")
    return facts


def find_start(
    config: PretrainConfig, corpus: Corpus, run: Path, resume: Resume
) -> Checkpoint | None:
    """Find the checkpoint to resume from.

    The number of epochs of a wsd run may change; it resumes from before both cooldowns.

    Raises:
        ValueError: if `run` holds another run, or one that can't be resumed.
    """
    start = find_resume(
        run,
        corpus.fingerprint,
        lambda settings: [] if _differs_in_length(config, settings) else config.conflicts(settings),
        resume,
    )
    if start is None or not _differs_in_length(config, start.settings):
        return start
    clips, folder = len(split_validation(corpus)[0]), run / CHECKPOINTS
    lengths = config, PretrainConfig.from_dict(start.settings)
    limit = min(length.learning_rate_schedule(clips).stable_steps for length in lengths)
    own = load_latest(folder, accepts=lambda settings: not config.conflicts(settings))
    if own is not None and own.step > limit:
        return own  # resumed before with this length
    start = load_latest(folder, limit)
    if start is None:
        raise ValueError(
            f"{run} has no checkpoint from before its cooldown, which starts at step {limit}: "
            "start a new run"
        )
    return start


def set_aside_weights(config: PretrainConfig, run: Path) -> None:
    """Rename the final weights of a run that continues with another number of epochs.

    Until it ends, the folder then has no final weights, and its name means the newest checkpoint.
    """
    path = run / FILE_NAME
    facts = read_settings(path)[1] if path.is_file() else {}
    if "config" not in facts or not config.conflicts(facts["config"]):
        return
    epochs = facts["config"]["epochs"]
    kept = path.with_name(f"model.{epochs:g}-epochs.safetensors")
    log.warning(
        "the run continues with %g epochs: the weights after %g are kept as %s",
        *(config.epochs, epochs, kept),
    )
    path.replace(kept)


def _differs_in_length(config: PretrainConfig, settings: Mapping[str, Any]) -> bool:
    """Whether a wsd run with these settings differs in its length alone."""
    before = PretrainConfig.from_dict(settings)
    only_length = config.conflicts(settings) == ["epochs"] and config.warmup == before.warmup
    return config.schedule == "wsd" and only_length
