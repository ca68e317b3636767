"""Embedding of many files into one output, as `axlstm embed` does.

Shapes: J time steps, D' embedding size.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hear_axlstm.ahead import groups
from hear_axlstm.audio.decode_ahead import decode_ahead
from hear_axlstm.audio.skipped import REPORT_NAME, Report, Skipped
from hear_axlstm.audio.sources import open_source
from hear_axlstm.audio.usable import Decoded, compute_decoded, sample_count
from hear_axlstm.data.shards import Plan, Record, Summary, by_shard, jobs, plan, summarize
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.output import Output, OutputError
from hear_axlstm.embed.pooling import pool
from hear_axlstm.embed.scenes import to_tensors
from hear_axlstm.embed.windows import Budget, step_times
from hear_axlstm.files import naming_full_disk, sole_writer, write_text
from hear_axlstm.ops.precision import product_dtype
from hear_axlstm.progress import Progress
from hear_axlstm.training.distributed import DistContext

Stored = Literal["scene", "timestamp", "both"]
FIELDS: dict[str, tuple[str, ...]] = {"scene": ("scene",), "timestamp": ("steps", "times_ms")}
FIELDS["both"] = FIELDS["scene"] + FIELDS["timestamp"]
CLIPS_PER_SHARD = 128


def embed_files(
    inputs: Sequence[str | Path],
    out: Path,
    embedder: Embedder,
    kind: Stored = "scene",
    *,
    path_column: str | None = None,
    context: DistContext | None = None,
) -> Report | None:
    """Embed all clips of the inputs into `out`.

    An interrupted run resumes. If the output is complete and no file has changed, nothing is
    computed; otherwise it is replaced. A different request for the same output is rejected.
    Clips that are broken, silent, shorter than 25 ms or longer than an hour are left out and listed
    in a report.csv.

    Args:
        inputs: see `open_source`.
        out: .npy file (with ids in .npy.ids.txt), .parquet file, or a folder for one .npy per clip.
        embedder: the model, on its device.
        kind: kind of embeddings.
        path_column: column of paths in CSV files; by default a usual name such as path or filename.
        context: the ranks of the run; by default this process alone.

    Returns:
        A summary, on the first rank only; None on the others.

    Raises:
        SourceError, TableError: if there is no audio.
        OutputError, ValueError: for an output or settings that can't be used, or if the ranks have
            different weights or files.
    """
    context = context or DistContext(embedder.device)
    output, source = Output(out, FIELDS[kind]), open_source(inputs, path_column)
    request = {
        "kind": kind,
        "source": source.name,
        "path_column": path_column,
        "model": embedder.config.to_dict(),
        "weights": _weights(embedder, context),
        "precision": _precision(embedder, context),
    }
    settings = [json.dumps(request, default=str)]
    planned = plan(source, output.parts, output.fields, settings, CLIPS_PER_SHARD)
    if not context.agrees(planned.fingerprint):
        raise ValueError(
            f"{source.name} is not the same on every rank: wait until no files are being added or "
            "changed, then run the same command again"
        )
    if context.broadcast(context.is_first and _is_up_to_date(output, planned, request)):
        if not context.is_first:
            return None
        _remove_obsolete_parts(output)
        return read_report(output)
    if not context.is_first:
        context.barrier()  # until the first rank has locked the folder
        _write_share(planned, embedder, context)
        return None
    return _embed_on_first_rank(output, planned, embedder, request, context)


def _embed_on_first_rank(
    output: Output,
    planned: Plan,
    embedder: Embedder,
    request: Mapping[str, Any],
    context: DistContext,
) -> Report:
    """Write this rank's shards, and join those of all ranks.

    Raises:
        OutputError: if no clip could be embedded, or another run has changed the shards.
    """
    with naming_full_disk(output.path):
        output.parts.mkdir(parents=True, exist_ok=True)
    with sole_writer(output.parts):
        output.begin(request)
        context.barrier()
        _write_share(planned, embedder, context)
        found = summarize(planned.shards, output.parts / REPORT_NAME)
        if found.foreign:
            raise OutputError(
                f"{found.foreign.sidecar} was made from other files by another process: wait until "
                "no other process is writing there, then run the same command again"
            )
        output.keep_report(found)
        if found.clips:
            _finish(output, planned, found, embedder, request)
        if not found.clips or found.fingerprint == planned.fingerprint:
            output.remove_parts()  # else the next call tries the clips again that may work then
    with suppress(OSError):  # another process has locked it, or there are files of others
        output.parts.rmdir()
    if not found.clips:
        first = f"{found.first.id}: {found.first.reason}" if found.first else "no audio in the tars"
        raise OutputError(f"no clip could be embedded, e.g. {first}; all reasons: {output.report}")
    return read_report(output)


def _remove_obsolete_parts(output: Output) -> None:
    """Remove the parts of an output that was interrupted after it was complete."""
    if output.read_request() is None:
        return
    with suppress(OSError):
        with sole_writer(output.parts):
            output.remove_parts()
        output.parts.rmdir()


def _weights(embedder: Embedder, context: DistContext) -> str:
    """Digest of the weights.

    Raises:
        ValueError: if the ranks differ.
    """
    found = embedder.digest()
    if not context.agrees(found):
        raise ValueError(
            f"the weights are not the same on every rank ({found} on rank {context.rank}): give "
            "all ranks the same file with --model"
        )
    return found


def _precision(embedder: Embedder, context: DistContext) -> str:
    """Name of the products' data type, which "auto" chooses by a measurement.

    Raises:
        ValueError: if the ranks differ.
    """
    name = str(product_dtype(embedder.precision, embedder.device)).removeprefix("torch.")
    if not context.agrees(name):
        raise ValueError(
            f"precision 'auto' is not the same on every rank ({name} on rank {context.rank}): "
            "choose one with --precision"
        )
    return name


def _is_up_to_date(output: Output, planned: Plan, request: Mapping[str, Any]) -> bool:
    """Whether the output exists for exactly these inputs.

    Raises:
        OutputError: if there are other files in its place, or embeddings of another request.
    """
    made = output.read_stamp()
    output.check_request(made, request)
    is_same = made is not None and made["fingerprint"] == planned.fingerprint
    if made is not None and is_same and made.get("bytes") == output.size():
        return True
    output.check_parts()
    return False


def _write_share(planned: Plan, embedder: Embedder, context: DistContext) -> None:
    """Compute this rank's missing shards, then wait for the other ranks."""
    own = [shard for shard in planned.shards if shard.number % context.size == context.rank]
    todo, total = planned.missing(own)
    fields = planned.shards[0].fields if planned.shards else ()
    held = Budget.of(embedder.device).held_samples(embedder.sample_rate)
    found = decode_ahead(jobs(planned, todo), embedder.sample_rate, held_samples=held)
    bar = Progress(total=total, unit="clip", desc="embedding", disable=not context.is_first)
    with closing(found), bar:
        shown = _Shown(bar, embedder.sample_rate)
        for shard, decoded in by_shard(todo, found):
            shard.write(shown(_embedded(decoded, embedder, held, fields)))
    context.barrier()


@dataclass
class _Shown:
    """Counts the records that it passes on, and shows the speed over all of them."""

    bar: Progress
    sample_rate: int
    samples: int = 0
    start: float = field(default_factory=time.monotonic)

    def __call__(self, records: Iterable[Record | Skipped]) -> Iterator[Record | Skipped]:
        for item in records:
            self.bar.update()
            if isinstance(item, Record):
                self.samples += int(item.facts["samples"])
                speed = self.samples / self.sample_rate / (time.monotonic() - self.start)
                self.bar.set_postfix_str(f"{speed:.1f} x real time", refresh=False)
            yield item


def _embedded(
    found: Iterable[Decoded | Skipped], embedder: Embedder, held: int, fields: Sequence[str]
) -> Iterator[Record | Skipped]:
    """Embed the clips of one shard in order, in batches of up to `held` samples."""
    embed = partial(_embed_batch, embedder=embedder, fields=fields)
    for group in groups(found, sample_count, held):
        yield from compute_decoded(group, embed)


def _embed_batch(
    batch: Sequence[Decoded], embedder: Embedder, fields: Sequence[str]
) -> list[Record]:
    waveforms = to_tensors(batch, embedder)
    with torch.no_grad():
        if "steps" not in fields:
            tensors = [{"scene": scene[None]} for scene in embedder.encode_scenes(waveforms)]
        else:
            tensors = [
                _fields(steps_JD, len(waveform), embedder)
                for steps_JD, waveform in zip(
                    embedder.encode_steps(waveforms), waveforms, strict=True
                )
            ]
    records = []
    for clip, found in zip(batch, tensors, strict=True):
        arrays = {f: np.ascontiguousarray(found[f].cpu().numpy(), "<f4") for f in fields}
        records.append(Record(clip.id, arrays, {"samples": clip.waveform.size}))
    return records


def _fields(steps_JD: Tensor, samples: int, embedder: Embedder) -> dict[str, Tensor]:
    times_J = step_times(samples, embedder.config)
    return {
        "scene": pool(steps_JD, embedder.config.pooling)[None],
        "steps": steps_JD[: len(times_J)],
        "times_ms": times_J,
    }


def _finish(
    output: Output, planned: Plan, found: Summary, embedder: Embedder, request: Mapping[str, Any]
) -> None:
    """Join the shards, and write the stamp."""
    output.stamp.unlink(missing_ok=True)
    sizes = embedder.scene_embedding_size, embedder.timestamp_embedding_size
    output.write(planned.shards, dict(zip(("scene", "steps"), sizes, strict=True)))
    samples = sum(sum(s.read()["clips"].get("samples", ())) for s in planned.shards)
    stamp = {
        "fingerprint": found.fingerprint,
        "clips": found.clips,
        "hours": samples / embedder.sample_rate / 3600,
        "skipped": dict(found.kinds.most_common()),
        "fields": output.fields,
        "bytes": output.size(),
        "request": request,
    }
    write_text(output.stamp, json.dumps(stamp, indent=2))


def read_report(output: Output) -> Report:
    """Read the summary of a finished run from its stamp."""
    made = json.loads(output.stamp.read_text(encoding="utf-8"))
    return Report(output.path, output.report, made["clips"], made["hours"], made["skipped"])
