"""One command in the several processes of torchrun: all work, and the first speaks, asks for locks and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from continual import console


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun has started, if it has, and let the first alone speak in the block.

    Around a command as a decorator: `@together()`. In one process nothing is loaded for it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    from continual import distributed  # it loads torch

    with distributed.processes(), console.silent(not distributed.first()):
        yield
