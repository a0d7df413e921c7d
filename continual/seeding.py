"""Randomness as a function of its purpose.

Every random draw comes from a generator derived from the learner's seed and a list of keys (what it is for, which
experience, which epoch, which image). No global random state is read or changed, so results do not depend on the number
of loader workers, on what was evaluated in between, or on other libraries, and training can be resumed from any epoch.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *keys: str | int) -> int:
    """Return a 63-bit seed for one purpose.

    >>> derive(1993, "shuffle", 0) == derive(1993, "shuffle", 0)
    True
    >>> derive(1993, "shuffle", 0) == derive(1993, "shuffle", 1)
    False
    """
    digest = hashlib.sha256(repr((seed, *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *keys: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on `device` for one purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, *keys))


@contextmanager
def seeded(seed: int, *keys: str | int) -> Iterator[None]:
    """Seed the global CPU generators (torch, Python, NumPy) inside the block and put them back afterwards.

    For code that only draws from them, such as torchvision's random transforms or a data set of your own.
    """
    torch_state, python_state, numpy_state = torch.random.get_rng_state(), random.getstate(), np.random.get_state()
    value = derive(seed, *keys)
    # default_generator, not torch.manual_seed: the latter would reseed every accelerator too.
    torch.default_generator.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)
    try:
        yield
    finally:
        torch.random.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
