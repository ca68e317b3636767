"""Loading of the clips of a call: from any supported type to mono samples at the model's rate."""

from __future__ import annotations

import io
import numbers
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.ahead import MAX_INPUT_BYTES, Threads, groups, map_ahead
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.decode_ahead import decoding_threads
from hear_axlstm.audio.errors import AudioError, printable
from hear_axlstm.audio.io import Content, load_audio, read_whole
from hear_axlstm.audio.resample import RATES, resampled
from hear_axlstm.audio.usable import SHORTEST_SECONDS, SILENCE
from hear_axlstm.embed.inputs import (
    AudioWarning,
    Errors,
    Failed,
    Request,
    as_pair,
    check_clip,
    check_type,
    describe,
)
from hear_axlstm.embed.windows import Budget
from hear_axlstm.progress import Progress
from hear_axlstm.wording import listed

MOST_CHANNELS = 32  # of a recording; a longer axis of an array is time
SHOWN = 3  # clips named in a warning
DELAY = 3.0  # seconds before a progress bar appears
AHEAD = 4  # clips in flight per thread
AHEAD_SECONDS = 60.0  # decoded and waiting; no further clips are started above this
PACKAGES = (Path(__file__).parents[1], Path(torch.__file__).parent)
INSIDE = tuple(f"{package}{os.sep}" for package in PACKAGES)


class Loaded(NamedTuple):
    """A clip of a list, ready for the model."""

    name: str
    samples: Tensor
    """Mono ``[n]`` at the model's rate, on its device."""
    remark: str
    """Why its embedding is not meaningful; empty if it is."""


class Loader:
    """The clips of a call in groups that fit the budget, as samples ``[n]`` on the model's device.

    Files are decoded ahead; a progress bar appears if that takes long. Iterating raises AudioError,
    TypeError, ValueError or OSError for a clip that can't be used, if `errors` is "raise".

    Args:
        request: the clips.
        sample_rate: the model's rate in Hz.
        device: the model's device.
        errors: "raise", or "skip" to collect the clips that can't be used in `failed`.
    """

    def __init__(
        self, request: Request, sample_rate: int, device: torch.device, errors: Errors = "raise"
    ) -> None:
        self.request, self.sample_rate = request, sample_rate
        self.device, self.errors = device, errors
        self.failed: list[Failed] = []
        self._remarks: dict[str, str] = {}
        self._one_at_a_time = {id(item): Lock() for item in request.items if _is_decoder(item)}

    def __iter__(self) -> Iterator[list[Tensor]]:
        held = Budget.of(self.device).held_samples(self.sample_rate)
        for group in groups(self._items(), _size, held):
            self.failed += [item for item in group if isinstance(item, Failed)]
            good = [item for item in group if isinstance(item, Loaded)]
            self._remarks.update({item.name: item.remark for item in good if item.remark})
            if good:
                yield [item.samples for item in good]

    def finish(self, warns: bool) -> None:
        """Warn about clips without meaningful embeddings, by name, on the line of the caller."""
        found, clips = self._remarks, len(self.request.items)
        if not (found and warns):
            return
        text = listed([f"{name} is {remark}" for name, remark in found.items()], SHOWN)
        if clips == 1:
            text += ": its embedding is not meaningful"
        else:
            text = f"no meaningful embedding for {len(found)} of {clips} clips: {text}"
        warnings.warn(text, AudioWarning, stacklevel=_level_of_caller())

    def _items(self) -> Iterator[Loaded | Failed]:
        items = self.request.items
        shown = {"unit": "clip", "delay": DELAY, "leave": False}
        bar = partial(Progress, desc="embedding", total=len(items), **shown)
        if all(isinstance(item, (np.ndarray, Tensor)) for item in items) or self.request.is_single:
            yield from bar(map(self._item, enumerate(items)))
            return
        threads, waiting = decoding_threads(), round(AHEAD_SECONDS * self.sample_rate)
        jobs = map(self._job, range(len(items)))
        with (
            Threads(threads) as pool,
            closing(
                map_ahead(self._item, jobs, pool, AHEAD * threads, _size, waiting, _content_bytes)
            ) as ahead,
        ):
            yield from bar(ahead)

    def _job(self, index: int) -> tuple[int, Any]:
        """Index and clip. Open files are read here, in order: several may share one position."""
        item, name = self.request.items[index], self.request.name(index)
        if _is_open_file(item):
            try:
                item = read_whole(item, MAX_INPUT_BYTES, name) or load_audio(
                    item, self.sample_rate, name=name
                )
            except (AudioError, TypeError) as error:
                item = error
        return index, item

    def _item(self, job: tuple[int, Any]) -> Loaded | Failed:
        index, item = job
        name = self.request.name(index)
        try:
            with self._one_at_a_time.get(id(item), nullcontext()):
                return _load(item, name, self.sample_rate, self.device)
        except (ValueError, TypeError, OSError) as error:
            if self.errors == "raise":
                raise
            return Failed(index, name, str(error).removeprefix(printable(name)).lstrip(": "))


def _is_decoder(item: object) -> bool:
    return hasattr(item, "get_all_samples")


def _is_open_file(item: object) -> bool:
    others = (io.TextIOBase, os.PathLike, Mapping)
    return hasattr(item, "read") and not (isinstance(item, others) or _is_decoder(item))


def _content_bytes(job: tuple[int, Any]) -> int:
    return job[1].size if isinstance(job[1], Content) else 0


def _size(item: Loaded | Failed) -> int:
    return len(item.samples) if isinstance(item, Loaded) else 0


def _level_of_caller() -> int:
    """Level of the first frame outside this package and torch, for `warnings.warn`."""
    level, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        level, frame = level + 1, frame.f_back
    return level


def _load(item: Any, name: str, sample_rate: int, device: torch.device) -> Loaded:
    """Load one clip of any supported type; an error of reading it before is raised."""
    if isinstance(item, Exception):
        raise item
    if isinstance(item, Mapping):  # of Hugging Face datasets, decoded or not
        item = _of_mapping(item, name)
    if isinstance(item, (str, os.PathLike)):
        item = load_audio(os.fsdecode(item), sample_rate)
    elif isinstance(item, AudioClip):
        item = item.decode(sample_rate)
    elif isinstance(item, (bytes, bytearray, memoryview)):
        item = load_audio(bytes(item), sample_rate, name=name)
    elif _is_decoder(item):  # an AudioDecoder of datasets or torchcodec
        try:
            decoded = item.get_all_samples()
        except Exception as error:  # of any library
            raise AudioError(f"{name}: its decoder failed ({error}): copy it again") from error
        item = _resampled(decoded.data, decoded.sample_rate, name, sample_rate)
    elif hasattr(item, "read"):
        if isinstance(item, io.TextIOBase):
            raise TypeError(f"{name} is a file in text mode: open it with mode 'rb'")
        item = load_audio(item, sample_rate, name=name)
    elif (pair := as_pair(item)) is not None:
        item = _resampled(*pair, name, sample_rate)
    samples = check_clip(item, name, device)
    if not len(samples):
        raise ValueError(f"{name} has no samples: pass at least one")
    return Loaded(name, samples, _remark(samples, sample_rate))


def _of_mapping(item: Mapping[str, Any], name: str) -> Any:
    rate = item.get("sampling_rate", item.get("sample_rate"))
    array = item.get("array")
    if array is not None and rate is not None:
        if not isinstance(rate, numbers.Real):
            raise TypeError(f"{name} has the sampling rate {rate!r}: pass one number of Hz")
        return (array if isinstance(array, Tensor) else np.asarray(array)), rate
    if array is None and item.get("bytes") is not None:
        return item["bytes"]
    if array is None and item.get("path") is not None:
        return item["path"]
    raise TypeError(
        f"{name} is {describe(item)}: pass a dict with 'array' and 'sampling_rate', or the array"
    )


def _resampled(samples: Any, rate: float, name: str, sample_rate: int) -> NDArray[np.float32]:
    """Mix and resample samples with a channel axis in either position to mono `sample_rate`."""
    if not RATES[0] <= rate <= RATES[-1]:
        raise ValueError(
            f"{name} has the sample rate {rate:g}: pass {RATES[0]:,} to {RATES[-1]:,} Hz"
        )
    check_type(samples, name)
    if isinstance(samples, Tensor) and samples.is_meta:
        raise ValueError(f"{name} is on the meta device, without data: pass samples on a device")
    if isinstance(samples, Tensor):
        is_float = samples.is_floating_point()
        array = (samples.detach().float() if is_float else samples).cpu().numpy()
    else:
        array = samples
    if array.dtype.kind != "f":
        raise TypeError(
            f"{name} is {array.dtype}: pass real floating-point samples in -1..1 "
            "(16-bit integers: audio / 32768)"
        )
    if not array.size:
        raise ValueError(f"{name} has no samples: pass at least one")
    if array.ndim == 2 and min(array.shape) <= MOST_CHANNELS:
        array = array.mean(axis=int(np.argmin(array.shape)))
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: pass mono samples [n]")
    mono = np.ascontiguousarray(array, np.float32)
    return np.concatenate(list(resampled([(round(rate), mono)], sample_rate)))


def _remark(samples: Tensor, sample_rate: int) -> str:
    if len(samples) < round(SHORTEST_SECONDS * sample_rate):
        return f"shorter than {1000 * SHORTEST_SECONDS:g} ms"
    low, high = samples.aminmax()
    mean = samples.mean()
    return "silent" if max(high - mean, mean - low).item() < SILENCE else ""
