"""PyTorch takes seconds to load, on a busy machine many: commands say so, and check first what they can without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading_pytorch() -> Iterator[None]:
    """Say on standard error, on a terminal, what is waited for while the block imports what needs PyTorch."""
    if "torch" in sys.modules:
        yield
        return
    from continual.cli.progress import waiting

    with waiting("loading PyTorch"):
        yield
