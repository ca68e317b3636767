"""Distributed training: several processes, started by torchrun, that train one model.

Every rank processes its rows of the same global batch. Gradients are summed once a step, after the
backward pass, in a fixed order, so that a resumed run repeats an uninterrupted one, and a rank that
runs out of memory or finds a non-finite value can still retry or agree with the others.
(DistributedDataParallel overlaps the sum with the backward pass, at the cost of both.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from hear_axlstm.training.device import choose_device, choose_threads
from hear_axlstm.training.signals import Interrupted

T = TypeVar("T")


class LostRankError(RuntimeError):
    """Raised if another rank exited without reporting an error."""


class OtherRankError(RuntimeError):
    """Raised if another rank failed first and has reported its error."""


@dataclass(frozen=True)
class DistContext:
    """This process and the other ranks of a run."""

    device: torch.device
    """Device of this rank."""
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes files and messages."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with _contact():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def agrees(self, value: object) -> bool:
        """Whether all ranks have rank 0's value; the answer is the same on every rank."""
        differing = torch.tensor(
            [float(self.broadcast(value) != value)], dtype=torch.float32, device="cpu"
        )
        self.all_reduce([differing])
        return not differing.item()

    def barrier(self) -> None:
        """Wait until all ranks have reached this point."""
        self.all_reduce([torch.zeros(1, dtype=torch.float32, device="cpu")])

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors with their sums over all ranks, bit-identical on each."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _contact():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


class StopSync:
    """Flags that any rank may raise and that all ranks see after the same step.

    With several ranks the result arrives one call later: the exchange runs on the CPU while the
    device computes the next step.
    """

    def __init__(self, context: DistContext) -> None:
        self.context = context
        self._under_way: tuple[Tensor, dist.Work] | None = None

    def poll(self, *flags: bool) -> list[bool]:
        """Raise this rank's flags, once per step; returns those that any rank has raised."""
        if self.context.size == 1:
            return list(flags)
        answer = self.finish() or [False] * len(flags)
        raised = torch.tensor(flags, dtype=torch.uint8, device="cpu")
        with _contact():
            work = dist.all_reduce(raised, dist.ReduceOp.MAX, async_op=True)
        self._under_way = (raised, work)
        return answer

    def finish(self) -> list[bool]:
        """Wait for the pending exchange, if any."""
        if self._under_way is None:
            return []
        raised, work = self._under_way
        self._under_way = None
        with _contact():
            work.wait()
        return [bool(flag) for flag in raised.tolist()]


@contextmanager
def init_distributed(
    device_name: str, threads: int | None = None, patience: timedelta | None = None
) -> Iterator[DistContext]:
    """Join the processes that torchrun started; without torchrun there is only this one.

    An error on any rank ends the run: the other ranks raise `OtherRankError`.

    Args:
        device_name: as in `RunConfig`.
        threads: as in `RunConfig`.
        patience: how long ranks wait for each other, by default PyTorch's 30 minutes.

    Raises:
        ValueError: if the device is not available.
    """
    rank, size, local_rank, local_size = (
        int(os.environ.get(name, default))
        for name, default in (
            ("RANK", 0),
            ("WORLD_SIZE", 1),
            ("LOCAL_RANK", 0),
            ("LOCAL_WORLD_SIZE", 1),
        )
    )
    device = choose_device(device_name, local_rank, local_size)
    choose_threads(threads, device, local_size)
    if size == 1:
        yield DistContext(device)
        return
    store = _meet()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    try:
        yield DistContext(device, rank, size)
    except Interrupted:
        dist.destroy_process_group()
        raise
    except Exception as error:
        # The group is not shut down before the process ends: that could wait for ranks that wait
        # for this one.
        if _others_failed(store):
            raise OtherRankError("another process failed; see its message") from error
        raise
    else:
        dist.destroy_process_group()


def _meet() -> dist.Store:
    """Open the rendezvous store, without entries from a failed attempt."""
    environ = os.environ
    several_machines = int(environ.get("GROUP_WORLD_SIZE", 1)) > 1
    restarts = int(environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
    shared = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if several_machines and restarts and shared:  # each machine counts its own restarts
        raise ValueError(
            "restarted processes would find the addresses of the previous attempt: "
            "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, or use --max-restarts=0"
        )
    store, _, _ = next(rendezvous("env://"))
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", 0) if shared else 0
    return dist.PrefixStore(f"attempt {attempt}", store)


def is_first_process() -> bool:
    """Whether this process is rank 0 or the only one, and may write to the terminal."""
    return os.environ.get("RANK", "0") == "0"


def _others_failed(store: dist.Store) -> bool:
    """Count this failure; False if it is the first, or if the store is gone."""
    try:
        return store.add("failures", 1) > 1
    except RuntimeError:
        return False


@contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(
            "lost contact with another process, which may have been killed (out of memory?): "
            "run the command again to resume from the last checkpoint"
        ) from error
