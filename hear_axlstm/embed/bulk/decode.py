"""Decode ahead: files become samples in threads while the model works on those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from hear_axlstm.audio.clips import Skipped
from hear_axlstm.data.extract import Decoded, Job, decode
from hear_axlstm.embed.inputs import MAX_AMPLITUDE

AHEAD = 8  # clips for each thread

Found = tuple[int, Decoded | Skipped]


def decode_ahead(
    jobs: Iterable[Job], sample_rate: int, threads: int, samples: int
) -> Generator[Found]:
    """The clips' samples in order, or why there are none.

    Args:
        jobs: clips, each with a number that comes back with it.
        sample_rate: of the samples, in Hz.
        threads: files decoded at the same time.
        samples: no more files are begun while so many samples wait; bounds memory.
    """
    jobs, ahead = iter(jobs), deque[Future[Found]]()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            while len(ahead) < AHEAD * threads and _waiting(ahead) < samples:
                job = next(jobs, None)
                if job is None:
                    break
                ahead.append(pool.submit(_decode, job, sample_rate))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(job: Job, sample_rate: int) -> Found:
    number, clip = job
    found = decode(clip, sample_rate)
    if isinstance(found, Decoded) and np.abs(found.waveform).max() > MAX_AMPLITUDE:
        found = Skipped(clip.id, "too loud: its power is no finite number, export it again")
    return number, found


def _waiting(ahead: Iterable[Future[Found]]) -> int:
    done = (future.result()[1] for future in ahead if future.done())
    return sum(found.waveform.size for found in done if isinstance(found, Decoded))
