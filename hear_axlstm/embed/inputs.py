"""What `Embedder.embed` takes, files, arrays and lists of them, and what it answers with.

Shapes: B clips, n samples, J time steps, D' embedding size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.mel import Statistics
from hear_axlstm.embed.windows import step_times

if TYPE_CHECKING:
    from hear_axlstm.embed.embedder import Embedder

Clip: TypeAlias = str | os.PathLike[str] | NDArray[np.floating] | Tensor
Audio: TypeAlias = Clip | Sequence[Clip]
Embeddings: TypeAlias = Any  # arrays, tensors, or lists of them: see `Embedder.embed`
Kind = Literal["scene", "timestamp"]

MAX_AMPLITUDE = 1e15  # the power of louder samples overflows float32
SECONDS_AT_ONCE = 300.0  # bounds the audio and log-mel that are held for a long list
PATIENCE = 3.0  # seconds before a progress bar appears


def embed(
    model: Embedder,
    audio: Audio,
    lengths: Iterable[int] | None,
    kind: Kind,
    statistics: Statistics | None,
) -> Embeddings:
    """See `Embedder.embed`."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(get_args(Kind))}")
    items = _items(audio, lengths)
    found: list[Any] = []
    for some in _groups(items, model):
        if kind == "scene":
            found += model.scenes(some, statistics)
            continue
        for clip, steps_JD in zip(some, model.steps(some, statistics), strict=True):
            times_J = step_times(len(clip), model.config).to(model.device)
            found.append((steps_JD[: len(times_J)], times_J))
    as_tensor = isinstance(items[0], Tensor)
    return _scenes(audio, found, as_tensor) if kind == "scene" else _steps(audio, found, as_tensor)


def read(audio: Audio, model: Embedder) -> list[Tensor]:
    """The samples of all clips, ``[n]`` each, on the model's device."""
    return [clip for some in _groups(_items(audio, None), model) for clip in some]


def check_batch(audio: Tensor, device: torch.device) -> None:
    """Refuse what is no batch ``[B, n]`` of finite samples on the device, and say why."""
    if not isinstance(audio, Tensor):
        raise TypeError(f"audio is a {type(audio).__name__}: pass a torch.Tensor [clips, samples]")
    if audio.ndim != 2:
        raise ValueError(
            f"audio has shape {tuple(audio.shape)}: pass [clips, samples]; for one mono clip use "
            "audio[None], for several channels average them first"
        )
    if audio.numel() == 0:
        raise ValueError(f"audio of shape {tuple(audio.shape)} holds no sample: pass at least one")
    _check_values(audio, "audio", device)


def check_clip(samples: Any, name: str, device: torch.device) -> Tensor:
    """Samples ``[n]``, an array on the CPU or a tensor on the device, as a tensor on the device.

    Raises:
        TypeError, ValueError: for another kind or shape, or samples that are not finite.
    """
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "fiub":
        samples = torch.from_numpy(np.array(samples, samples.dtype.newbyteorder("="))).to(device)
    if not isinstance(samples, Tensor):
        raise TypeError(f"{name} is a {_describe(samples)}: pass a NumPy array or a torch.Tensor")
    if samples.ndim != 1:
        raise ValueError(
            f"{name} has shape {tuple(samples.shape)}: pass mono samples [n]; average channels "
            "first"
        )
    _check_values(samples, name, device)
    return samples.float()


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


def _describe(value: object) -> str:
    dtype = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{dtype}"


def _items(audio: Audio, lengths: Iterable[int] | None) -> list[Clip]:
    """The clips one by one, not read yet."""
    rows = _ndim(audio) == 2
    if lengths is not None:
        if not rows:
            raise ValueError("lengths belong to a padded batch [clips, samples]: leave them out")
        return _cut(audio, [int(length) for length in lengths])
    if isinstance(audio, (str, os.PathLike)) or _ndim(audio) not in (None, 2):
        return [cast("Clip", audio)]
    if not rows and not isinstance(audio, Iterable):
        raise TypeError(f"audio is a {_describe(audio)}: pass a path, an array, or a list of them")
    if not (items := list(audio)):
        raise ValueError("audio holds no clip: pass at least one")
    return items


def _cut(batch: Any, lengths: Sequence[int]) -> list[Clip]:
    clips, longest = batch.shape
    if len(lengths) != clips:
        raise ValueError(f"{len(lengths)} lengths for {clips} clips: give one a clip")
    for index, length in enumerate(lengths):
        if not 1 <= length <= longest:
            raise ValueError(
                f"lengths[{index}]={length}: must lie between 1 and the {longest} samples of a row"
            )
    return [row[:length] for row, length in zip(batch, lengths, strict=True)]


def _ndim(audio: object) -> int | None:
    return audio.ndim if isinstance(audio, (np.ndarray, Tensor)) else None


def _groups(items: Sequence[Clip], model: Embedder) -> Iterator[list[Tensor]]:
    """The clips' samples, as many at once as are processed together."""
    most = SECONDS_AT_ONCE * model.sample_rate
    group: list[Tensor] = []
    for index, item in enumerate(tqdm(items, "embedding", unit="clip", delay=PATIENCE)):
        clip = _load(item, f"clip {index}" if len(items) > 1 else "audio", model)
        if group and sum(map(len, group)) + len(clip) > most:
            yield group
            group = []
        group.append(clip)
    yield group


def _load(item: Clip, name: str, model: Embedder) -> Tensor:
    if isinstance(item, (str, os.PathLike)):
        item, name = load_audio(Path(item), model.sample_rate), str(item)
    clip = check_clip(item, name, model.device)
    if not len(clip):
        raise ValueError(f"{name} holds no sample: pass at least one")
    return clip


def _scenes(audio: Audio, found: list[Tensor], as_tensor: bool) -> Embeddings:
    scenes_BD = _in_kind(torch.stack(found), as_tensor)
    return scenes_BD[0] if _is_single(audio) else scenes_BD


def _steps(audio: Audio, found: list[tuple[Tensor, Tensor]], as_tensor: bool) -> Embeddings:
    steps, times = ([pair[at] for pair in found] for at in (0, 1))
    if _ndim(audio) == 2:
        steps_BJD = pad_sequence(steps, batch_first=True)
        times_BJ = pad_sequence(times, batch_first=True, padding_value=torch.nan)
        return _in_kind(steps_BJD, as_tensor), _in_kind(times_BJ, as_tensor)
    pairs = [(_in_kind(s, as_tensor), _in_kind(t, as_tensor)) for s, t in found]
    return pairs[0] if _is_single(audio) else tuple(map(list, zip(*pairs, strict=True)))


def _is_single(audio: Audio) -> bool:
    return isinstance(audio, (str, os.PathLike)) or _ndim(audio) == 1


def _in_kind(tensor: Tensor, as_tensor: bool) -> Tensor | NDArray[np.float32]:
    return tensor if as_tensor else tensor.cpu().numpy()
