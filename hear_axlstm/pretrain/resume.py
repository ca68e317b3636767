"""Where a pretraining run starts: the batch size it keeps, and the checkpoint to resume from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hear_axlstm.data.corpus import Corpus
from hear_axlstm.data.dataset import split_validation
from hear_axlstm.pretrain.config import CONFIG, PretrainConfig
from hear_axlstm.pretrain.schedule import make_schedule
from hear_axlstm.training.checkpoint_manager import list_checkpoints, load_latest
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.resume import CHECKPOINTS, Resume, find_resume


def with_batch_size(config: PretrainConfig, corpus: Corpus, run: Path) -> PretrainConfig:
    """The config with the batch size of the run to resume, or one that suits the corpus."""
    if config.batch_size is None and list_checkpoints(run / CHECKPOINTS):
        before = PretrainConfig.from_dict(json.loads((run / CONFIG).read_text("utf-8")))
        lr = before.lr if config.lr is None else config.lr
        return replace(config, batch_size=before.batch_size, lr=lr)
    return config.for_corpus(len(split_validation(corpus)[0]))


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
    limit = min(make_schedule(length, clips).stable_steps for length in lengths)
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


def _differs_in_length(config: PretrainConfig, settings: Mapping[str, Any]) -> bool:
    """Whether a wsd run with these settings differs in its length alone."""
    before = PretrainConfig.from_dict(settings)
    only_length = config.conflicts(settings) == ["epochs"] and config.warmup == before.warmup
    return config.schedule == "wsd" and only_length
