"""Inputs and outputs of the embedding calls: from users' audio to tensors and back.

Pure functions, independent of the model. Shapes: B clips, n samples, J time steps, D' embedding
size.
"""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.opening import source_name
from hear_axlstm.audio.usable import MAX_AMPLITUDE, SHORTEST_SECONDS

Samples: TypeAlias = NDArray[np.floating]
ArrayClip: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Samples | Mapping[str, Any] | AudioClip | "
    "tuple[Samples | Tensor, int]"
)
"""One clip for which NumPy arrays are returned."""
ArrayAudio: TypeAlias = "ArrayClip | Sequence[ArrayClip]"
TensorAudio: TypeAlias = "Tensor | Sequence[Tensor]"
Audio: TypeAlias = "ArrayAudio | TensorAudio"
Kind = Literal["scene", "timestamp"]
Errors = Literal["raise", "skip"]

# At least so many clips of at most so many samples (25 ms and 0.5 ms at 16 kHz) can't be a batch:
# they are the samples and channels of one recording.
CLEARLY_SAMPLES, CLEARLY_CHANNELS = 400, 8
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class AudioWarning(UserWarning):
    """Issued for clips without meaningful embeddings: silent, or shorter than 25 ms."""


@dataclass(frozen=True)
class Failed:
    """A clip of a list that could not be embedded."""

    index: int
    """Index in the list."""
    name: str
    """Path, or a name such as "clip 3"."""
    reason: str


@dataclass(frozen=True)
class Request:
    """The clips of one call, and the form of the result."""

    items: list[Any]
    is_single: bool
    """Whether there is one clip, returned without the axis B."""
    is_padded: bool
    """Whether the input is a batch ``[B, n]``, with timestamps returned as one padded array."""
    as_tensor: bool

    def name(self, index: int) -> str:
        """Name of a clip in messages."""
        item = self.items[index]
        if isinstance(item, Mapping):  # of Hugging Face datasets
            item = item.get("path")
        if isinstance(item, AudioClip):
            item = item.source if isinstance(item.source, str) else item.id
        return source_name(item, "audio" if self.is_single else f"clip {index}")


def parse(audio: Any, lengths: Iterable[int] | None, sample_rate: int, errors: str) -> Request:
    """Parse a call's arguments, without reading any file.

    Raises:
        TypeError, ValueError: for arguments that can't be embedded.
    """
    if errors not in get_args(Errors):
        raise ValueError(f"errors={errors!r}: choose one of {', '.join(get_args(Errors))}")
    check_type(audio, "audio")
    if isinstance(audio, np.ndarray) and audio.dtype.kind in "OTU" and audio.ndim == 1:
        audio = audio.tolist()  # an array of paths, or of clips of different lengths
    ndim = audio.ndim if isinstance(audio, (np.ndarray, Tensor)) else None
    if lengths is not None and ndim != 2:
        raise ValueError("lengths belong to a padded batch [clips, samples]: leave them out")
    if ndim == 2:
        _check_channels(audio.shape, round(SHORTEST_SECONDS * sample_rate))
        items = list(audio) if lengths is None else _cut(audio, _integers(lengths))
    elif ndim is not None or _is_one_clip(audio):
        if errors == "skip":
            raise ValueError("errors='skip' is for lists of clips: leave it out for one clip")
        return Request([audio], True, False, isinstance(audio, Tensor))
    elif isinstance(audio, Iterable):
        items = list(audio)
        if any(isinstance(item, numbers.Real) for item in items[:1]):
            raise TypeError(
                f"audio is {describe(audio)} of numbers: pass samples as an array, e.g. "
                "np.asarray(audio, np.float32)"
            )
    else:
        raise TypeError(f"audio is {describe(audio)}: pass a path, an array, or a list of them")
    if not items:
        raise ValueError("audio contains no clips: pass at least one")
    return Request(items, False, ndim == 2, isinstance(items[0], Tensor))


def answer_scenes(request: Request, scenes: list[Tensor], size: int, device: torch.device) -> Any:
    """Combine scenes ``[D']`` into ``[B, D']``, or ``[D']`` for a single clip, on the device."""
    none_BD = torch.zeros(0, size, dtype=torch.float32, device=device)
    scenes_BD = torch.stack(scenes) if scenes else none_BD
    return _in_kind(scenes_BD[0] if request.is_single else scenes_BD, request.as_tensor)


def answer_timestamps(
    request: Request, pairs: list[tuple[Tensor, Tensor]], size: int, device: torch.device
) -> tuple[Any, Any]:
    """Return steps ``[J, D']`` and times ``[J]`` padded, as lists, or of a single clip."""
    if request.is_padded:
        steps_BJD = torch.zeros(0, 0, size, dtype=torch.float32, device=device)
        times_BJ = steps_BJD[..., 0]
        if pairs:
            steps, times = zip(*pairs, strict=True)
            steps_BJD = pad_sequence(list(steps), batch_first=True)
            times_BJ = pad_sequence(list(times), batch_first=True, padding_value=torch.nan)
        return _in_kind(steps_BJD, request.as_tensor), _in_kind(times_BJ, request.as_tensor)
    answers = [[_in_kind(pair[at], request.as_tensor) for pair in pairs] for at in (0, 1)]
    return (answers[0][0], answers[1][0]) if request.is_single else (answers[0], answers[1])


def _in_kind(tensor: Tensor, as_tensor: bool) -> Tensor | NDArray[np.float32]:
    return tensor if as_tensor else tensor.cpu().numpy()


def check_batch(audio: Tensor, device: torch.device) -> None:
    """Raise unless the audio is a batch ``[B, n]`` of finite samples on the device."""
    if not isinstance(audio, Tensor):
        raise TypeError(f"audio is {describe(audio)}: pass a torch.Tensor [clips, samples]")
    check_type(audio, "audio")
    if audio.ndim != 2:
        raise ValueError(
            f"audio has shape {tuple(audio.shape)}: pass [clips, samples]; for one mono clip use "
            "audio[None], for several channels average them first"
        )
    if audio.numel() == 0:
        raise ValueError(f"audio of shape {tuple(audio.shape)} has no samples: pass at least one")
    _check_channels(audio.shape, CLEARLY_CHANNELS + 1 if len(audio) >= CLEARLY_SAMPLES else 0)
    _check_values(audio, "audio", device)


def check_clip(samples: Any, name: str, device: torch.device) -> Tensor:
    """Check samples ``[n]``, an array or a tensor on the device, and return them as a tensor.

    Raises:
        TypeError, ValueError: for another type or shape, or non-finite samples.
    """
    check_type(samples, name)
    is_array = isinstance(samples, np.ndarray)
    if is_array:
        if samples.dtype.kind not in "fiub":
            raise TypeError(f"{name} is {describe(samples)}: pass real samples in -1..1")
        native = samples.dtype.newbyteorder("=")
        dtype = np.float64 if native.itemsize > 8 else native  # torch has no wider floats
        samples = torch.from_numpy(np.array(samples, dtype))
    if not isinstance(samples, Tensor):
        raise TypeError(f"{name} is {describe(samples)}: pass a NumPy array or a torch.Tensor")
    if samples.ndim != 1:
        raise ValueError(
            f"{name} has shape {tuple(samples.shape)}: pass mono samples [n]; average channels "
            "first"
        )
    _check_values(samples, name, samples.device if is_array else device)
    return samples.float().to(device)  # in this order: some devices have no float64


def check_type(audio: object, name: str) -> None:
    """Raise for arrays that are masked, sparse, nested, quantized, fake, or of 8-bit floats."""
    if isinstance(audio, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill it, e.g. with audio.filled(0)")
    if not isinstance(audio, Tensor):
        return
    if audio.is_nested or audio.layout != torch.strided or audio.is_quantized:
        kind = "nested" if audio.is_nested else "sparse or quantized"
        raise TypeError(f"{name} is a {kind} tensor: pass a plain one, or a list of tensors")
    if type(audio).__name__ == "FakeTensor":
        raise TypeError(f"{name} is a FakeTensor, without data: exit FakeTensorMode to embed")
    if audio.is_floating_point() and audio.dtype not in FLOATS:
        raise TypeError(f"{name} is {audio.dtype}: pass float32 samples in -1..1")


def _check_channels(shape: Sequence[int], shortest: int) -> None:
    rows, columns = shape
    if 0 < columns < shortest and rows > 1:
        raise ValueError(
            f"audio of shape {tuple(shape)} looks like [samples, channels]: pass "
            "x.mean(axis=1) for one clip; a batch is [clips, samples]"
        )


def _check_values(audio: Tensor, name: str, device: torch.device) -> None:
    if not audio.is_floating_point():
        raise TypeError(
            f"{name} is {audio.dtype}: pass real floating-point samples in -1..1 "
            "(16-bit integers: audio / 32768)"
        )
    if audio.device != device:
        raise ValueError(
            f"{name} is on {audio.device}, the model on {device}: move one to the other"
        )
    peak = audio.abs().amax().item() if audio.numel() else 0.0
    if not peak <= MAX_AMPLITUDE:  # also catches NaN
        raise ValueError(
            f"{name} has a sample of magnitude {peak}: remove NaN and infinite samples, "
            "and scale to -1..1"
        )


def describe(value: object) -> str:
    """Describe a wrong argument by its type, with an article."""
    if value is None:
        return "None"
    kind = "array" if isinstance(value, np.ndarray) else type(value).__name__
    text = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if isinstance(value, Mapping):
        return f"{text} with {', '.join(map(repr, list(value)[:4])) or 'no keys'}"
    return f"{text} of {value.dtype}" if isinstance(value, np.ndarray) else text


def _integers(lengths: Iterable[int]) -> list[int]:
    try:
        return [operator.index(length) for length in lengths]
    except TypeError as error:
        raise TypeError(
            f"lengths={lengths!r}: pass one whole number of samples for each clip"
        ) from error


def _cut(batch: Any, lengths: Sequence[int]) -> list[Any]:
    clips, longest = batch.shape
    if len(lengths) != clips:
        raise ValueError(f"{len(lengths)} lengths for {clips} clips: pass one per clip")
    for index, length in enumerate(lengths):
        if not 1 <= length <= longest:
            raise ValueError(
                f"lengths[{index}]={length}: must be between 1 and the {longest} samples of a row"
            )
    return [row[:length] for row, length in zip(batch, lengths, strict=True)]


def _is_one_clip(audio: object) -> bool:
    paths = (str, os.PathLike, bytes, bytearray, memoryview, AudioClip, Mapping)
    readable = hasattr(audio, "read") or hasattr(audio, "get_all_samples")
    return isinstance(audio, paths) or readable or as_pair(audio) is not None


def as_pair(audio: object) -> tuple[Any, float] | None:
    """Samples and rate of a pair in either order, as soundfile and scipy return it; else None."""
    if isinstance(audio, tuple) and len(audio) == 2:
        for samples, rate in (audio, audio[::-1]):
            is_rate = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
            if isinstance(samples, (np.ndarray, Tensor)) and is_rate:
                return samples, float(rate)
    return None
