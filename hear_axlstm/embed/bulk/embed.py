"""From inputs to embeddings on disk, restartable, alone or as one of several ranks."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from hear_axlstm import load_model
from hear_axlstm.audio.clips import Skipped
from hear_axlstm.data.extract import Decoded, Job
from hear_axlstm.data.shards import digest
from hear_axlstm.embed.bulk.decode import decode_ahead
from hear_axlstm.embed.bulk.finish import Report, finish, read_report
from hear_axlstm.embed.bulk.inputs import Inputs
from hear_axlstm.embed.bulk.output import Output, OutputError
from hear_axlstm.embed.bulk.parts import FIELDS, Embedded, Part
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.windows import step_times
from hear_axlstm.ops.precision import Precision
from hear_axlstm.training.distributed import DistContext, init_distributed

Kind = Literal["scene", "timestamp", "both"]
PATIENCE = timedelta(days=30)  # ranks wait for the slowest at the end


def embed(
    inputs: Sequence[str],
    out: Path,
    model: str = "",
    kind: Kind = "scene",
    precision: Precision = "float32",
    batch_seconds: float = 300.0,
    device: str = "auto",
) -> Report | None:
    """Embed all clips of the inputs into `out`.

    An interrupted run goes on where it stopped; what is there already, of the same files by the
    same model, is not computed again.

    Args:
        inputs: see `Inputs`.
        out: see `Output`; its suffix says which form.
        model: as in `load_model`.
        kind: of embeddings.
        precision: as in `load_model`.
        batch_seconds: of audio that is held and embedded at once, 1 or more.
        device: as in `hear_axlstm.training.device.choose_device`.

    Returns:
        What was done; None on other ranks than the first.

    Raises:
        ValueError: for inputs, an output or settings that can't be meant.
    """
    with init_distributed(device, patience=PATIENCE) as context:
        if not 1 <= batch_seconds < math.inf:
            raise ValueError(f"batch_seconds={batch_seconds}: give a number of seconds from 1 on")
        output, clips = Output(out, FIELDS[kind]), Inputs(inputs)
        embedder = load_model(model, precision=precision).to(context.device)
        parts, total = _plan(clips, output, embedder)
        if context.broadcast(context.is_first and _is_up_to_date(output, parts)):
            return read_report(output) if context.is_first else None
        if not context.is_first:
            context.barrier()  # until the first has taken the folder
            _write_share(parts, total, clips, embedder, batch_seconds, context)
            return None
        output.parts.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output.parts / "lock", timeout=0):
                context.barrier()
                _write_share(parts, total, clips, embedder, batch_seconds, context)
                report = finish(output, parts, embedder)
        except Timeout as error:
            raise OutputError(f"{out} is being written by another process: wait for it") from error
        if not report.skipped:
            shutil.rmtree(output.parts)
        return report


def _plan(clips: Inputs, output: Output, embedder: Embedder) -> tuple[list[Part], int | None]:
    """The parts to be, and how many clips they have, where that is known."""
    settings = [_fingerprint(embedder), *output.fields]
    parts, sizes = [], []
    for number, unit in enumerate(tqdm(clips.units(), "listing", unit="part", leave=False)):
        made_from = digest([*settings, *unit.inputs()])
        parts.append(Part(output.parts, number, made_from, output.fields))
        sizes.append(unit.size)
    known = [size for size in sizes if size is not None]
    return parts, sum(known) if len(known) == len(sizes) else None


def _is_up_to_date(output: Output, parts: Sequence[Part]) -> bool:
    """Whether the output is there, of these very inputs; refuses to replace anything else."""
    made = output.read_stamp()
    return made is not None and made["fingerprint"] == digest(p.fingerprint for p in parts)


def _fingerprint(embedder: Embedder) -> str:
    """Of all that an embedding depends on beside the audio."""
    hashed = hashlib.sha256(repr((embedder.config, embedder.precision)).encode())
    for tensor in embedder.encoder.state_dict().values():
        hashed.update(tensor.cpu().contiguous().numpy().data)
    return hashed.hexdigest()


def _write_share(
    parts: Sequence[Part],
    total: int | None,
    clips: Inputs,
    embedder: Embedder,
    batch_seconds: float,
    context: DistContext,
) -> None:
    """Make this rank's parts that are not there, from one stream of clips; wait for the others."""
    own = [part for part in parts if part.number % context.size == context.rank]
    todo = {part.number: part for part in own if not part.is_done()}
    rate = embedder.sample_rate
    most = round(batch_seconds * rate)
    threads = max(2, torch.get_num_threads())
    found = decode_ahead(_jobs(clips, todo), rate, threads, most)
    share = None if total is None else total * len(todo) // len(parts)
    with (
        closing(found),
        tqdm(total=share, unit="clip", desc="embedding", disable=not context.is_first) as progress,
    ):
        clock = _Clock(progress, rate)
        for number, group in groupby(found, lambda pair: pair[0]):
            decoded = (item for _, item in group)
            part = todo.pop(number)
            part.write(clock.watch(_embedded(decoded, embedder, most, part.fields)))
    for part in todo.values():  # tars without a clip
        part.write(())
    context.barrier()


def _jobs(clips: Inputs, todo: Mapping[int, Part]) -> Iterator[Job]:
    wanted = set(todo)
    for number, unit in enumerate(clips.units() if wanted else ()):
        if number in wanted:
            yield from ((number, clip) for clip in unit.clips)


def _embedded(
    found: Iterable[Decoded | Skipped], embedder: Embedder, most: int, fields: Sequence[str]
) -> Iterator[Embedded | Skipped]:
    """Clips together, up to so many samples; their order is kept among themselves."""
    batch: list[Decoded] = []
    for item in found:
        if isinstance(item, Skipped):
            yield item
            continue
        if batch and sum(clip.waveform.size for clip in batch) + item.waveform.size > most:
            yield from _embed_batch(batch, embedder, fields)
            batch = []
        batch.append(item)
    if batch:
        yield from _embed_batch(batch, embedder, fields)


def _embed_batch(
    batch: Sequence[Decoded], embedder: Embedder, fields: Sequence[str]
) -> Iterator[Embedded]:
    waveforms = [torch.from_numpy(clip.waveform).to(embedder.device) for clip in batch]
    with torch.no_grad():
        if "steps" not in fields:
            arrays = [{"scene": scene[None]} for scene in embedder.scenes(waveforms)]
        else:
            arrays = [
                _fields(steps_JD, len(waveform), embedder)
                for steps_JD, waveform in zip(embedder.steps(waveforms), waveforms, strict=True)
            ]
    for clip, tensors in zip(batch, arrays, strict=True):
        numbers = {field: tensors[field].cpu().numpy() for field in fields}
        yield Embedded(clip.id, clip.waveform.size, numbers)


def _fields(steps_JD: Tensor, samples: int, embedder: Embedder) -> dict[str, Tensor]:
    times_J = step_times(samples, embedder.config)
    return {
        "scene": steps_JD.mean(0, keepdim=True),
        "steps": steps_JD[: len(times_J)],
        "times_ms": times_J,
    }


class _Clock:
    """Shows how many times faster than real time it goes."""

    def __init__(self, progress: tqdm, sample_rate: int) -> None:
        self._progress, self._rate = progress, sample_rate
        self._start, self._samples = time.monotonic(), 0

    def watch(self, found: Iterable[Embedded | Skipped]) -> Iterator[Embedded | Skipped]:
        for item in found:
            self._progress.update()
            if isinstance(item, Embedded):
                self._samples += item.samples
                speed = self._samples / self._rate / (time.monotonic() - self._start)
                self._progress.set_postfix_str(f"{speed:.1f} x real time", refresh=False)
            yield item
