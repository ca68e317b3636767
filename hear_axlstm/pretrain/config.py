"""Settings of a pretraining run, as plain data; the defaults are the paper's (section 3.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, get_args

import tyro

from hear_axlstm.config import InputGate, LossOn, ModelConfig, check_keys, preset
from hear_axlstm.options import option
from hear_axlstm.training.config import RunConfig, check_positive
from hear_axlstm.training.schedule import Schedule

log = logging.getLogger(__name__)

ScheduleName = Literal["cosine", "wsd"]
OptimizerName = Literal["adamw", "muon"]

CONFIG = "config.json"  # the settings, in the folder of a run
DEFAULT_MODEL = "axlstm_tiny"
MLSTM_ONLY = ("expansion", "flip", "input_gate")
REFERENCE_BATCH = 256  # the batch size that `base_lr` refers to
PAPER_BATCH = 1024
STEPS_PER_EPOCH = 32  # of a small corpus, with the default batch
FEW_STEPS = 500  # below this, a warning suggests a smaller batch


@dataclass(frozen=True)
class Variant:
    """A preset, or an ablation of it (paper section 4.2); None keeps the preset's value."""

    model: Annotated[str | None, option("PRESET")] = None
    """Preset: axlstm_ or ssast_, followed by tiny, small or base (default: axlstm_tiny)."""
    expansion: Annotated[int | None, option("N")] = None
    """Inner width of an mLSTM block as a multiple of D."""
    patch: Annotated[tuple[int, int] | None, option("FRAMES BINS")] = None
    """Frames and mel bins of a patch."""
    flip: Annotated[bool | None, option("{True,False}")] = None
    """Let every second mLSTM block process the tokens in reverse order."""
    input_gate: Annotated[InputGate | None, option(f"{{{','.join(get_args(InputGate))}}}")] = None
    """Activation of the mLSTM input gate."""
    mask_keeps_position: Annotated[bool | None, option("{True,False}")] = None
    """Let masked patches keep their position embedding."""
    loss_on: Annotated[LossOn | None, option("{masked,all}")] = None
    """Patches that the reconstruction loss averages over."""

    @property
    def changes(self) -> dict[str, Any]:
        """Settings that differ from the preset, including its name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def build(self) -> ModelConfig:
        """Build the model's settings.

        Raises:
            ValueError: for an unknown preset, or a setting that does not apply to it.
        """
        changes = self.changes
        base = preset(changes.pop("model", DEFAULT_MODEL))
        useless = [name for name in MLSTM_ONLY if name in changes]
        if base.architecture == "ssast" and useless:
            raise ValueError(f"{self.model} has no {', '.join(useless)}: leave it out")
        return replace(base, **changes)


@dataclass(frozen=True)
class TrainConfig:
    """Model and training settings of a pretraining run; a resumed run must keep them.

    Raises:
        ValueError: for an invalid combination.
    """

    model: Annotated[ModelConfig, tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default_factory=lambda: preset(DEFAULT_MODEL)
    )
    """The encoder to train; on the command line, a `Variant`."""
    init: Annotated[str | None, option("WEIGHTS")] = None
    """Weights to start from: a name, file, folder or hf://org/repo (default: random)."""
    epochs: float = 100.0
    """Passes over the clips; each takes one random crop of every clip."""
    batch_size: Annotated[int | None, option("N")] = None
    """Clips per optimizer step (default: the paper's 1024, fewer for a small corpus)."""
    base_lr: float = 1.5e-4
    """Peak learning rate at a batch of 256; the rate grows in proportion to the batch."""
    lr: Annotated[float | None, option("RATE")] = None
    """Peak learning rate, instead of the scaled base_lr."""
    warmup_epochs: Annotated[float | None, option("EPOCHS")] = None
    """Epochs of linear warm-up (default: a tenth of all epochs)."""
    schedule: ScheduleName = "cosine"
    """Learning rate after the warm-up: "cosine" to zero, or "wsd": constant, then a cooldown. A
    wsd run can be extended by running it again with more epochs."""
    cooldown: float = 0.2
    """Share of the steps in the cooldown of a wsd schedule."""
    optimizer: OptimizerName = "adamw"
    """AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the rest."""
    weight_decay: float = 0.05
    """Weight decay; biases and other 1-D parameters have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Betas of AdamW."""
    clip_norm: Annotated[float | None, option("NORM")] = None
    """Clip gradients to this norm (default: no clipping, as in the paper)."""
    ema: Annotated[float | None, option("DECAY")] = None
    """Decay of an exponential moving average of the weights, which is then evaluated and saved
    (default: none; 0.999 suits a few thousand steps)."""
    balance: float = 0.0
    """0 draws every clip once per epoch; 1 draws every top-level folder of the corpus equally
    often; values between draw folders in proportion to (their clips) ** (1 - balance)."""
    mix: float = 0.0
    """Maximum share of a second, random clip mixed into each crop."""
    seed: int = 0
    """Seed of initial weights, order, crops and masks."""

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "base_lr", optional=("batch_size", "lr", "clip_norm", "ema"))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup} must be at least 0 and below "
                f"epochs={self.epochs}: a tenth of the epochs is usual"
            )
        if not 0 < self.cooldown < 1:
            raise ValueError(f"cooldown={self.cooldown} must be between 0 and 1")
        if self.ema is not None and self.ema >= 1:
            raise ValueError(f"ema={self.ema} must be between 0 and 1")
        for name in ("balance", "mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a number from 0 to 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")

    @property
    def warmup(self) -> float:
        """Number of warm-up epochs."""
        return self.epochs / 10 if self.warmup_epochs is None else self.warmup_epochs

    @property
    def batch(self) -> int:
        """Clips per optimizer step; the paper's number if none was given."""
        return self.batch_size or PAPER_BATCH

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run."""
        return self.base_lr * self.batch / REFERENCE_BATCH if self.lr is None else self.lr

    def steps(self, clips: int, epochs: float | None = None) -> int:
        """Number of optimizer steps in some epochs of a number of clips, by default in all."""
        return max(1, round((self.epochs if epochs is None else epochs) * clips / self.batch))

    def learning_rate_schedule(self, clips: int) -> Schedule:
        """The learning rate schedule of a run on a number of clips."""
        steps = self.steps(clips)
        warmup = min(self.steps(clips, self.warmup), steps - 1)
        if self.schedule == "cosine":
            return Schedule(steps, warmup)
        return Schedule(steps, warmup, max(1, min(round(self.cooldown * steps), steps - warmup)))


@dataclass(frozen=True)
class PretrainConfig(RunConfig, TrainConfig):
    """All settings of a pretraining run: `TrainConfig` and execution settings.

    Raises:
        ValueError: for an invalid combination.
    """

    micro_batch: Annotated[int | None, option("N")] = None
    """Clips to process at once on each device (default: as many as fit); gradients are accumulated
    over the batch."""
    checkpoint_blocks: bool = False
    """Recompute the activations of blocks in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model with torch.compile; meant for GPUs."""
    milestone_epochs: Annotated[float | None, tyro.conf.arg(metavar="FLOAT|None")] = 10.0
    """Epochs between checkpoints that are kept permanently."""
    eval_epochs: int = 5
    """Epochs between pictures of reconstructions, and between scores of the labeled clips."""
    knn: Annotated[str | None, option("LABELED")] = None
    """Labeled clips for scoring the embeddings by nearest neighbors (kNN): a CSV with the columns
    path and label, or a folder with one subfolder per class."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        RunConfig.__post_init__(self)
        check_positive(self, "eval_epochs", optional=("micro_batch", "milestone_epochs"))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PretrainConfig:
        """Rebuild a config from the data of `to_dict`, perhaps of another version.

        Raises:
            ValueError: for settings that this version does not know.
        """
        check_keys(cls, settings)
        model, betas = ModelConfig.from_dict(settings["model"]), tuple(settings["betas"])
        return cls(**{**settings, "model": model, "betas": betas})

    def conflicts(self, settings: Mapping[str, Any]) -> list[str]:
        """Names of settings that conflict with those of a run to resume, given by `to_dict`."""
        other = PretrainConfig.from_dict(settings)
        names = [f.name for f in fields(TrainConfig)]
        differing = [name for name in names if getattr(self, name) != getattr(other, name)]
        if "warmup_epochs" in differing and self.warmup == other.warmup:  # the default was given
            differing.remove("warmup_epochs")
        return differing

    def for_corpus(self, clips: int) -> PretrainConfig:
        """Return these settings with a batch size that suits the corpus, if none was given.

        A corpus of at least 32 times 1,024 clips gets the paper's batch of 1,024. A smaller one
        gets about 32 steps per epoch. The peak learning rate stays that of the paper.

        Args:
            clips: number of clips to train on.
        """
        if self.batch_size is not None:
            steps = self.steps(clips)
            better = suited_batch(clips)
            if steps < FEW_STEPS and better < self.batch_size:
                log.warning(
                    "batch_size=%d makes %d steps in %g epochs of %d clips, too few to learn much; "
                    "--batch-size %d makes %d",
                    *(self.batch_size, steps, self.epochs, clips),
                    *(better, replace(self, batch_size=better).steps(clips)),
                )
            return self
        return replace(self, batch_size=suited_batch(clips), lr=self.peak_lr)


def suited_batch(clips: int) -> int:
    """A power of two from 16 to 1,024 that divides a corpus into about 32 steps per epoch."""
    return min(PAPER_BATCH, max(16, 2 ** int(math.log2(max(1, clips / STEPS_PER_EPOCH)))))
