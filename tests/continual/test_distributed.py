"""What several processes share out, as far as one process can see it; `experiments/test_torchrun.py` starts two."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from continual import distributed
from continual.adapters.bank import TrainableAdapter
from continual.adapters.base import Shapes
from continual.adapters.bottleneck import Bottleneck
from continual.distributed import Rows
from continual.errors import InputError
from continual.seeding import generator


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "count", lambda: count)


def test_one_process_changes_nothing() -> None:
    value = torch.ones(2, requires_grad=True)
    (value * 2).sum().backward()
    gradient = value.grad
    distributed.average_gradients([value])
    assert value.grad is gradient
    assert torch.equal(gradient, torch.full((2,), 2.0))  # type: ignore[arg-type]
    parts = [value]
    assert distributed.in_turn(parts) is parts
    assert distributed.turns(parts) == parts
    assert distributed.first_says(value) is value
    assert distributed.joined(value, distributed.rows_of(2)) is value
    assert (distributed.count(), distributed.first(), distributed.part()) == (1, True, None)
    distributed.use("cuda:7")


@pytest.mark.parametrize(("count", "total"), [(2, 2), (2, 7), (3, 4), (4, 48)])
def test_the_rows_of_all_are_the_batch(monkeypatch: pytest.MonkeyPatch, count: int, total: int) -> None:
    found: list[int] = []
    for rank in range(count):
        as_process(monkeypatch, rank, count)
        rows = distributed.rows_of(total)
        assert rows is not None
        assert rows.total == total
        assert rows.stop > rows.start
        found += range(total)[rows.slice]
    assert found == list(range(total))
    assert distributed.rows_of(count - 1) is None, "where there is no row for each, each takes all"


def test_what_was_done_in_turn_is_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = list(range(7))
    every = []
    for rank in range(3):
        as_process(monkeypatch, rank, 3)
        every.append(list(distributed.turns(batches)))
    monkeypatch.setattr(distributed, "exchange", lambda _: every)
    assert distributed.in_turn(every[1]) == batches


def test_different_files_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.agree(3, "checkpoints")
    monkeypatch.setattr(distributed, "exchange", lambda value: [value, 2])
    with pytest.raises(InputError, match="do not find the same checkpoints: the run folder must be one that all"):
        distributed.agree(3, "checkpoints")


def test_dropout_of_some_rows_is_that_of_the_batch() -> None:
    kind = Bottleneck(bottleneck=4, adapter_dropout=0.5)
    stack = TrainableAdapter(kind, kind.new(Shapes(1, 8), generator(0)))
    h = torch.randn(5, 3, 8, generator=generator(1))
    torch.nn.init.normal_(stack.up_weight, generator=generator(2))
    whole = stack.bind(stack.masks(5, 3, generator(7)))(0, h)
    for rows in (Rows(0, 2, 5), Rows(2, 5, 5)):
        mine = h[rows.slice]
        torch.testing.assert_close(
            stack.bind(stack.masks(len(mine), 3, generator(7), rows))(0, mine), whole[rows.slice]
        )


@pytest.mark.parametrize("set_up", [{}, {"MASTER_ADDR": "127.0.0.1"}])
def test_processes_that_cannot_join(monkeypatch: pytest.MonkeyPatch, set_up: dict[str, Any]) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", **set_up}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"the 2 processes cannot join \(.*MASTER_.*\): .* run without torchrun"):
        distributed.processes().__enter__()
    assert distributed.count() == 1


def test_devices_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    as_process(monkeypatch, 0, 2)
    distributed.use("cpu")
    with pytest.raises(InputError, match="2 processes cannot share device 'cuda:1': give device=cuda or device=cpu"):
        distributed.use("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="more processes than the 1 CUDA devices of this machine"):
        distributed.use("cuda")
