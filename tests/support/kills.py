"""A process that kills itself at a moment that is chosen."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

STEPS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod")


def die_before(step: int, folder: str) -> None:
    """Let this process be killed before its n-th step from now on in a folder."""
    left = [step]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STEPS and folder in str(arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
