"""How a pretraining run goes, as plain data; defaults are the paper's (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

import tyro

from hear_axlstm.config import InputGate, LossOn, ModelConfig, preset
from hear_axlstm.ops.precision import Precision

DEFAULT_MODEL = "axlstm_tiny"
MLSTM_ONLY = ("expansion", "flip", "input_gate")
RENAMED = {"look_every": "eval_every"}  # settings that earlier run folders name otherwise
REFERENCE_BATCH = 256  # the batch size that `base_lr` is meant for


@dataclass(frozen=True)
class Variant:
    """A preset, or one of its ablations (paper section 4.2); what is None stays the preset's."""

    model: str | None = None
    """The preset: axlstm_ or ssast_ tiny, small or base; by default axlstm_tiny."""
    expansion: int | None = None
    """Inner width of an mLSTM block as a multiple of D."""
    patch: tuple[int, int] | None = None
    """Frames and mel bins of a patch."""
    flip: bool | None = None
    """Every second mLSTM block reads the tokens backwards."""
    input_gate: InputGate | None = None
    """Activation of the mLSTM input gate."""
    mask_keeps_position: bool | None = None
    """A hidden patch keeps its position."""
    loss_on: LossOn | None = None
    """Patches that the reconstruction loss averages over."""

    @property
    def changes(self) -> dict[str, Any]:
        """What is said of the model, its preset included."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def build(self) -> ModelConfig:
        """The model's settings.

        Raises:
            ValueError: for an unknown preset, or a setting that it has not.
        """
        changes = self.changes
        base = preset(changes.pop("model", DEFAULT_MODEL))
        useless = [name for name in MLSTM_ONLY if name in changes]
        if base.architecture == "ssast" and useless:
            raise ValueError(f"{self.model} has no {', '.join(useless)}: leave it out")
        return replace(base, **changes)


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pretraining run.

    Raises:
        ValueError: for a combination that can't be trained with.
    """

    model: Annotated[ModelConfig, tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default_factory=lambda: preset(DEFAULT_MODEL)
    )
    """The encoder to train; on the command line, a `Variant`."""
    init: str | None = None
    """Weights to start from, as `load_model` takes them; by default random ones."""
    epochs: float = 100.0
    """Passes over the clips; each gives one random crop of a clip."""
    batch_size: int = 1024
    """Clips of an optimizer step."""
    base_lr: float = 1.5e-4
    """Peak learning rate at a batch of 256; the rate grows in proportion to the batch."""
    lr: float | None = None
    """Peak learning rate itself, in place of the scaled `base_lr`."""
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises linearly, by default a tenth of all; then it falls
    as a cosine to zero."""
    weight_decay: float = 0.05
    """AdamW's, on weights only: not on biases and other 1-D parameters."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    clip_norm: float | None = None
    """Longest gradient that is let through unscaled; the paper doesn't clip."""
    balance: float = 0.0
    """0 draws every clip once an epoch; 1 draws every top-level folder of the corpus equally often;
    between them, folders in proportion to (their clips) ** (1 - balance)."""
    seed: int = 0
    """Fixes the initial weights, order, crops and masks."""
    device: str = "auto"
    """"auto" takes CUDA, then Apple's MPS, then the CPU; or a torch device such as "cuda:1"."""
    precision: Precision = "auto"
    """Of the forward pass; "auto" takes bfloat16 where the hardware is faster with it."""
    micro_batch: int | None = None
    """Clips at once on each device; gradients add up to `batch_size`. By default what fits."""
    checkpoint_blocks: bool = False
    """Compute a block's activations again in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model by torch.compile; meant for GPUs."""
    threads: int | None = None
    """CPU threads, by default torch's choice; of several processes each takes its share."""
    log_every: int = 10
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    checkpoint_minutes: float = 10.0
    """Longest time between two checkpoints."""
    keep_checkpoints: int = 2
    """So many of the last checkpoints stay; older ones go when a new one is whole."""
    milestone_epochs: float | None = 10.0
    """A checkpoint every so many epochs stays for good."""
    stop_after_bad_steps: int = 10
    """Give up after so many steps in a row whose loss or gradient was not finite."""
    eval_every: Annotated[int, tyro.conf.arg(aliases=("--look-every",))] = 5
    """Epochs between two pictures of what the model reconstructs, and two scores of the probe."""
    probe: str | None = None
    """Labeled clips that the representation is scored on: a CSV with columns path and label, or a
    folder with one subfolder a class."""

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "base_lr", "log_every", "checkpoint_every")
        optional = ("lr", "clip_norm", "micro_batch", "threads", "milestone_epochs")
        keeping = ("checkpoint_minutes", "keep_checkpoints", "stop_after_bad_steps", "eval_every")
        for name in (*positive, *keeping):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number above 0")
        for name in optional:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be a number above 0, or left out")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be a number from 0 on")
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup} must be at least 0 and below "
                f"epochs={self.epochs}: a tenth of the epochs is usual"
            )
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance={self.balance} must be a number from 0 to 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")

    @property
    def warmup(self) -> float:
        """Epochs of rising learning rate."""
        return self.epochs / 10 if self.warmup_epochs is None else self.warmup_epochs

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run."""
        scaled = self.base_lr * self.batch_size / REFERENCE_BATCH
        return scaled if self.lr is None else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON-ready data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PretrainConfig:
        """Rebuild a config from `to_dict`'s data."""
        values = {RENAMED.get(name, name): value for name, value in settings.items()}
        values["model"] = ModelConfig.from_dict(values["model"])
        values["betas"] = tuple(values["betas"])
        return cls(**values)

    def conflicts(self, other: PretrainConfig) -> list[str]:
        """Settings in which a run of `other` can't be continued with this config."""
        return [
            f.name
            for f in fields(self)
            if f.name not in MAY_CHANGE and getattr(self, f.name) != getattr(other, f.name)
        ]


MAY_CHANGE = frozenset(
    {
        "device",
        "precision",
        "micro_batch",
        "checkpoint_blocks",
        "compile",
        "threads",
        "log_every",
        "checkpoint_every",
        "checkpoint_minutes",
        "keep_checkpoints",
        "milestone_epochs",
        "stop_after_bad_steps",
        "eval_every",
        "probe",
    }
)
"""Settings that a resumed run may change: they don't alter what is learned, only how it is run."""
