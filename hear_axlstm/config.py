"""Settings of a model as plain data: the mel front end, the encoder and the six presets.

Importing this module does not load PyTorch, so that listing presets is instant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

InputGate = Literal["exponential", "sigmoid"]
LossOn = Literal["masked", "all"]
Layout = Literal["time", "release"]
Pooling = Literal["mean", "mean_std"]

PATCHES = ((4, 8), (4, 16), (8, 16))  # the paper's Table 4
LARGEST = {  # far above what anyone trains, so that a damaged header can't ask for terabytes
    "sample_rate": 1_000_000,
    "n_fft": 1 << 15,
    "hop_length": 1 << 15,
    "n_mels": 1_024,
    "dim": 1 << 14,
    "depth": 1_024,
    "heads": 1_024,
    "expansion": 64,
    "mlp_ratio": 64,
    "window_frames": 60_000,  # ten minutes
}
MOST_PATCHES = 150_000  # in a window


@dataclass(frozen=True)
class MelConfig:
    """The log-mel front end (paper section 3.2).

    Raises:
        ValueError: for a size that is not a whole number in range, or edges in the wrong order.
    """

    sample_rate: int = 16_000
    """Samples per second of the waveform."""
    n_fft: int = 400
    """Window and transform length in samples: 25 ms."""
    hop_length: int = 160
    """Samples from one frame to the next: 10 ms."""
    n_mels: int = 80
    """Mel bins, F."""
    f_min: float = 50.0
    """Lower edge of the lowest filter in Hz."""
    f_max: float = 8_000.0
    """Upper edge of the highest filter in Hz."""

    def __post_init__(self) -> None:
        _check_sizes(self, ("sample_rate", "n_fft", "hop_length", "n_mels"))
        edges = (self.f_min, self.f_max)
        if not all(type(edge) in (int, float) for edge in edges) or not (
            0 <= self.f_min < self.f_max <= self.sample_rate / 2
        ):
            raise ValueError(
                f"f_min={self.f_min!r} and f_max={self.f_max!r} must be frequencies in Hz with "
                f"0 <= f_min < f_max <= {self.sample_rate / 2:g}, half the sample rate"
            )


@dataclass(frozen=True)
class ModelConfig:
    """An encoder over masked log-mel patches: AxLSTM, or the SSAST baseline.

    Raises:
        ValueError: for an invalid combination of settings.
    """

    architecture: str = "axlstm"
    """mLSTM blocks (``axlstm``) or transformer blocks (``ssast``)."""
    dim: int = 192
    """Width of a token, D."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 4
    """Number of mLSTM or attention heads, H."""
    expansion: int = 3
    """AxLSTM: inner width E of a block as a multiple of D (Table 3)."""
    flip: bool = False
    """AxLSTM: every second block processes the tokens in reverse order (Table 5)."""
    input_gate: InputGate = "exponential"
    """AxLSTM: activation of the input gate (Table 5)."""
    mlp_ratio: int = 4
    """SSAST: width of a block's MLP as a multiple of D."""
    patch: tuple[int, int] = (4, 16)
    """Frames and mel bins of a patch (Table 4)."""
    window_frames: int = 200
    """Mel frames per encoder window: 2 s."""
    mask_ratio: float = 0.5
    """Fraction of the patches masked in pretraining."""
    mask_keeps_position: bool = False
    """Masked patches keep their position embeddings. The reference release replaces these too; a
    transformer, which has no other source of positions, then can't distinguish masked patches."""
    loss_on: LossOn = "masked"
    """Patches that the reconstruction loss averages over."""
    layout: Layout = "time"
    """Row t of an embedding: the patches of time step t (``time``), or tokens t, t + J, t + 2J, ...
    of a window of J steps, which mix time steps, as in the reference release (``release``)."""
    pooling: Pooling = "mean"
    """Scene embedding: mean over the time steps (``mean``, the paper's), or mean and standard
    deviation side by side (``mean_std``)."""
    mel: MelConfig = field(default_factory=MelConfig)
    """The front end."""

    def __post_init__(self) -> None:
        self._check_choice("input_gate", get_args(InputGate))
        self._check_choice("loss_on", get_args(LossOn))
        self._check_choice("layout", get_args(Layout))
        self._check_choice("pooling", get_args(Pooling))
        self._check_choice("patch", PATCHES)
        _check_sizes(self, ("dim", "depth", "heads", "expansion", "mlp_ratio", "window_frames"))
        for name in ("flip", "mask_keeps_position"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        if self.dim % 4:
            raise ValueError(f"dim={self.dim} must be a multiple of 4, for the position embedding")
        if self.window_frames % self.patch[0] or self.mel.n_mels % self.patch[1]:
            raise ValueError(
                f"patch {self.patch} does not tile a window of {self.window_frames} frames x "
                f"{self.mel.n_mels} mel bins: choose sizes that divide both"
            )
        patches = math.prod(self.grid)
        if patches > MOST_PATCHES:
            raise ValueError(
                f"window_frames={self.window_frames} and n_mels={self.mel.n_mels} make "
                f"{patches:,} patches, more than {MOST_PATCHES:,}: reduce either"
            )
        if type(self.mask_ratio) is not float or not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio={self.mask_ratio!r} must be between 0 and 1")
        if not 0 < (masked := round(self.mask_ratio * patches)) < patches:
            raise ValueError(
                f"mask_ratio={self.mask_ratio} masks {masked} of the {patches} patches of a "
                "window: choose one that masks at least one, but not all"
            )

    def _check_choice(self, name: str, choices: tuple) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {choices}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of one window, (along time, along frequency)."""
        return self.window_frames // self.patch[0], self.mel.n_mels // self.patch[1]

    @property
    def patch_size(self) -> int:
        """Number of values in one patch, p."""
        return self.patch[0] * self.patch[1]

    @property
    def embedding_size(self) -> int:
        """Width of a timestamp embedding: the tokens of a time step side by side."""
        return self.grid[1] * self.dim

    @property
    def scene_embedding_size(self) -> int:
        """Width of a scene embedding."""
        return self.embedding_size * (2 if self.pooling == "mean_std" else 1)

    @property
    def step_seconds(self) -> float:
        """Time from one timestamp embedding to the next."""
        return self.patch[0] * self.mel.hop_length / self.mel.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON-ready data; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> ModelConfig:
        """Rebuild a config from `to_dict`'s data.

        Raises:
            ValueError: for an unknown setting.
        """
        values = dict(settings)
        check_keys(cls, values)
        if "patch" in values:
            values["patch"] = tuple(values["patch"])
        if "mel" in values:
            check_keys(MelConfig, values["mel"])
            values["mel"] = MelConfig(**values["mel"])
        return cls(**values)


def _check_sizes(config: MelConfig | ModelConfig, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= LARGEST[name]:
            raise ValueError(f"{name}={value!r} must be a whole number from 1 to {LARGEST[name]:,}")


def check_keys(cls: type, values: Mapping[str, Any]) -> None:
    """Check that a dataclass has all of these settings.

    Raises:
        ValueError: naming the unknown ones, perhaps written by another version.
    """
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"unknown {cls.__name__} setting(s) {unknown}, perhaps from another version: "
            f"the known ones are {sorted(known)}"
        )


def _ssast(dim: int, heads: int) -> ModelConfig:
    return ModelConfig(architecture="ssast", dim=dim, heads=heads, mask_keeps_position=True)


PRESETS: dict[str, ModelConfig] = {
    "axlstm_tiny": ModelConfig(dim=192),
    "axlstm_small": ModelConfig(dim=384),
    "axlstm_base": ModelConfig(dim=768),
    "ssast_tiny": _ssast(dim=192, heads=3),
    "ssast_small": _ssast(dim=384, heads=6),
    "ssast_base": _ssast(dim=768, heads=12),
}


def preset(name: str) -> ModelConfig:
    """Return the preset with this name.

    Raises:
        ValueError: if there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
