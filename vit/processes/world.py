"""The processes of one run, as torchrun starts them: which one this is, and the small values that they exchange.

DistributedDataParallel and FSDP2 do the rest. A single process never touches torch.distributed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vit.errors import Stopped, UserError
from vit.processes.restarts import round_store
from vit.processes.signals import Stop

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others: rank 0 reads data sets and checkpoints first."""
T = TypeVar("T")


class Idle(NamedTuple):
    """The batch of a process that has none left, while the others run a sharded model, which needs every process."""

    images: Tensor
    targets: None = None


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Each process holds a part of the weights: every pass through the model needs all processes."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def refuses(self, **options: Any) -> None:
        """Raises UserError for an option that is set but works in a single process only."""
        for name, value in options.items():
            if self.size > 1 and value:
                raise UserError(f"--{name.replace('_', '-')} works in one process only: leave out torchrun.")

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process."""
        if self.size == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return tuple(bool(value) for value in values.tolist())

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over the processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
            value /= self.size
        return value

    def totals(self, amount: Tensor, count: int) -> tuple[Tensor, int]:
        """Sum of the amounts, and the smallest count, of all processes."""
        values = torch.tensor([float(amount), float(count)], dtype=torch.float64)
        rows = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(rows, values)
        gathered = torch.stack(rows)
        return gathered[:, 0].sum().to(amount), int(gathered[:, 1].min())

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def whole(self, norm: Tensor) -> Tensor:
        """The norm of all gradients; of sharded ones, each process knows only its part."""
        if self.size == 1:
            return norm
        from torch.distributed.tensor import DTensor

        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def last(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """A context for the passes of a part of a batch: gradients are exchanged with the last part only."""
        if self.size == 1:
            return nullcontext()
        if isinstance(model, nn.parallel.DistributedDataParallel):
            return nullcontext() if last else model.no_sync()
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
        return nullcontext()

    def together(self, batches: Iterator[Any], stop: Stop, device: torch.device) -> Iterator[Any]:
        """The batches of an evaluation in step, where the processes have different numbers of them. Raises Stopped in
        all processes once one of them has got a signal."""
        if self.size == 1:
            yield from batches
            return
        while True:
            batch = next(batches, None)
            shape = None if batch is None else (tuple(batch.images.shape), batch.images.dtype)
            seen = self.gather((shape, stop.signal))
            if ended := [signal for _, signal in seen if signal is not None]:
                raise Stopped(ended[0])
            shapes = [shape for shape, _ in seen if shape is not None]
            if not shapes:
                return
            if batch is not None:
                yield batch
            elif self.sharded:
                yield Idle(torch.zeros(shapes[0][0], dtype=shapes[0][1], device=device))

    def on_main(self, work: Callable[[], T]) -> T:
        """The result of `work` in the first process, for all. If it raises, the others exit quietly."""
        if self.size == 1:
            return work()
        answer: list[Any] = [None, False]
        try:
            if self.main:
                answer = [work(), True]
        finally:
            torch.distributed.broadcast_object_list(answer)
        if not answer[1]:
            sys.exit(2)
        return answer[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process runs this before the others, which then find what it left on disk. If it fails, they exit
        quietly."""
        if not self.main:
            if any(self.any(False)):
                sys.exit(2)
            yield
            return
        failed = True
        try:
            yield
            failed = False
        finally:
            self.any(failed)


ALONE = World()


def join(device: str = "auto", *, sharded: bool = False) -> World:
    """Join the processes that torchrun has started; ALONE without torchrun.

    device: as `pick_device` takes it. sharded: each process holds a part of the weights. Only the first process prints
    on stdout; all print errors. Raises UserError where torch has no torch.distributed.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if not torch.distributed.is_available():
        raise UserError("This build of torch has no torch.distributed, which torchrun's processes need.")
    world = World(int(os.environ["RANK"]), size, sharded)
    gpus = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    if not torch.distributed.is_initialized():
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        store = round_store(world.rank, size, TIMEOUT)
        place: dict[str, Any] = {} if store is None else {"store": store, "rank": world.rank, "world_size": size}
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT, **place)
    if not world.main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return world


def restarted() -> bool:
    """Whether torchrun (after a failure) or SLURM (after a requeue) has restarted this run, which then resumes."""
    return any(
        int(os.environ.get(name, "0") or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    )


def leave() -> None:
    """End the connection to the other processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
