"""Several processes at one run, started by torchrun: the only place that knows `torch.distributed`.

Outside the block of `processes` there is one process, whatever else has started a process group, and every function
here is the identity. Inside it all processes run the same program with the same random numbers on the same numbers:

- In training each loads and forwards its own `Rows` of every minibatch. `joined` makes features and logits
  whole again, so that every process computes the loss of the whole batch, and gradients are averaged.
- Features of a data set and answers are computed in turn, a batch each, and exchanged (`in_turn`).
- The first process decides what is to be done, and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from continual.errors import InputError

T = TypeVar("T")

_together: ContextVar[bool] = ContextVar("together", default=False)
_part: ContextVar[Rows | None] = ContextVar("part", default=None)


@dataclass(frozen=True)
class Rows:
    """The rows from `start` up to `stop` of a batch of `total` images."""

    start: int
    stop: int
    total: int

    @property
    def slice(self) -> slice:
        """The same as an index."""
        return slice(self.start, self.stop)


def launched() -> int:
    """Return how many processes torchrun has started this program in; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun has started, if it has started several; they part at the end of the block.

    Of processes that fail one after the other only the first raises its error; the others end with exit code 2.
    Raises InputError if they do not find one another.
    """
    if launched() == 1:
        yield
        return
    try:
        store, rank, world = next(iter(dist.rendezvous("env://")))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        # The first process may work alone for long, while the others wait.
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(days=1))
    except (RuntimeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the {launched()} processes cannot join ({' '.join(str(error).split())}): if gloo finds no network, name "
            f"one, e.g. GLOO_SOCKET_IFNAME=lo on a single machine, or run without torchrun"
        ) from error
    token = _together.set(True)
    try:
        yield
    except BaseException as error:
        if _is_first_failure(store):
            raise
        raise SystemExit(2) from error
    finally:
        _together.reset(token)
    dist.destroy_process_group()


def _is_first_failure(store: Any) -> bool:
    try:
        return int(store.add("equimos/failures", 1)) == 1
    except RuntimeError:  # the process that kept the store has ended: it was the first
        return False


def use(device: str) -> None:
    """Give each process a device of its own: for "cuda" that of its number on the machine.

    Raises InputError if there are not enough, if one device is named, or if nccl cannot use them.
    """
    if count() == 1 or device == "cpu":
        return
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if device != "cuda":
        raise InputError(f"{count()} processes cannot share device {device!r}: give device=cuda or device=cpu")
    if local >= gpus:
        said = f"there are more processes than the {gpus} CUDA devices of this machine"
        raise InputError(f"{said}: lower --nproc-per-node")
    torch.cuda.set_device(local)
    try:
        dist.all_reduce(torch.zeros(1, device=device))
    except RuntimeError as error:
        raise InputError(f"nccl cannot use the GPUs ({' '.join(str(error).split())}): try device=cpu") from error


def count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if _together.get() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _together.get() else 0


def first() -> bool:
    """Return whether this is the process that writes."""
    return rank() == 0


# What is exchanged ---------------------------------------------------------------------------------------


def exchange(value: T) -> list[T]:
    """Return every process's value: nested dicts, lists and tuples of tensors, which come on the CPU, and scalars."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    with _lost_if_it_fails():
        # Torch pickles what is sent; it goes to this run's own processes only.
        dist.all_gather_object(found, _on_cpu(value))
    return found


def first_says(value: T) -> T:
    """Return the first process's value, as `exchange` does; those of the others are not looked at."""
    if count() == 1:
        return value
    said = [_on_cpu(value) if first() else None]
    with _lost_if_it_fails():
        dist.broadcast_object_list(said, src=0)
    return said[0]  # type: ignore[return-value]


def agree(value: Any, what: str) -> None:
    """Raise InputError if not all processes have found the same in their files."""
    if any(other != value for other in exchange(value)):
        raise InputError(f"the processes do not find the same {what}: the run folder must be one that all of them see")


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find what it has written."""
    if not first():
        exchange(None)
    yield
    if first():
        exchange(None)


def turns(batches: Sequence[T]) -> Sequence[T]:
    """Return the batches of this process: they are distributed in turn."""
    return batches[rank() :: count()]


def in_turn(parts: Sequence[T]) -> Sequence[T]:
    """Put what each process has made of its `turns` in the order of the batches; see `exchange`."""
    if count() == 1:
        return parts
    every = exchange(list(parts))
    return [every[k % count()][k // count()] for k in range(sum(map(len, every)))]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return type(value)(map(_on_cpu, value)) if type(value) in (list, tuple) else value


@contextmanager
def _lost_if_it_fails() -> Iterator[None]:
    try:
        yield
    except RuntimeError as lost:
        raise InputError(f"lost another process ({' '.join(str(lost).split())}): the same command resumes it") from lost


# Training ------------------------------------------------------------------------------------------------


def rows_of(total: int) -> Rows | None:
    """Return this process's share of a batch; None, for all of it, in one process or if there is no row for each."""
    if total < count() or count() == 1:
        return None
    return Rows(total * rank() // count(), total * (rank() + 1) // count(), total)


@contextmanager
def part_of_batch(rows: Rows | None) -> Iterator[None]:
    """Say in the block which rows of the batch are forwarded, for what is drawn for a whole batch; see `part`."""
    token = _part.set(rows)
    try:
        yield
    finally:
        _part.reset(token)


def part() -> Rows | None:
    """Return which rows of the batch are being forwarded; None for all."""
    return _part.get()


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        whole = mine.new_zeros(rows.total, *mine.shape[1:])
        whole[rows.slice] = mine
        with _lost_if_it_fails():
            dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.rows.slice] * count(), None


def joined(mine: Tensor, rows: Rows | None) -> Tensor:
    """Return the whole batch (B, ...) from each process's rows of it.

    Every process computes the same loss from it, of which only its own rows reach its weights: through them the
    gradient of the whole is the sum over the processes, and of what a loss takes from the weights directly it is any
    one's. So rows get their gradient times the number of processes, and `average_gradients` is right for both.
    """
    return mine if rows is None else _Joined.apply(mine, rows)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over the processes, in one message."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not found:
        return
    flat = torch.cat([gradient.flatten() for gradient in found])
    with _lost_if_it_fails():
        dist.all_reduce(flat)
    for gradient, mean in zip(found, (flat / count()).split([g.numel() for g in found]), strict=True):
        gradient.copy_(mean.view_as(gradient))
