"""Two processes under DistributedDataParallel learn what one learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.support.zoo import WRAPPERS, Micro

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([0, 1, 2, 3])


def step(name: str, rows: slice, distributed: bool) -> dict[str, Tensor]:
    """Take one step of SGD on some of the images, and return the weights after it."""
    torch.manual_seed(0)
    wrapper = WRAPPERS[name](Micro(), "C4").double().train()
    model = DistributedDataParallel(wrapper) if distributed else wrapper
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.1)
    nn.functional.cross_entropy(model(X[rows]), LABELS[rows]).backward()
    optimizer.step()
    return {key: value.detach() for key, value in wrapper.named_parameters()}


def work(rank: int, folder: str) -> None:
    """Process number `rank` of two: take every wrapper's step on half of the images."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    try:
        found = {name: step(name, slice(2 * rank, 2 * rank + 2), distributed=True) for name in WRAPPERS}
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_one_step_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in WRAPPERS:
        whole, half = step(name, slice(4), distributed=False), step(name, slice(2), distributed=False)
        torch.testing.assert_close(first[name], whole)
        torch.testing.assert_close(second[name], whole)
        assert any((whole[key] - half[key]).abs().max() > 1e-4 for key in whole), "the halves must differ"
