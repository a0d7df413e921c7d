"""Continual learning on pretrained vision models: learners by themselves, and as Avalanche strategies.

Everything here is loaded when it is first used: the learners do not import Avalanche, the strategies do. The public
names stand in `__init__.pyi`, where editors and type checkers read them as well.
"""

from __future__ import annotations

import ast
import importlib
import os
from typing import Any

__version__ = "0.1.0"


def _public() -> dict[str, str]:
    """Return the modules of the public names."""
    with open(os.path.splitext(__file__)[0] + ".pyi", encoding="utf-8") as file:  # noqa: PTH122, PTH123 - fast to import
        lines = ast.parse(file.read()).body
    return {alias.name: str(line.module) for line in lines if isinstance(line, ast.ImportFrom) for alias in line.names}


_WHERE = _public()

__all__ = ["__version__", "methods", *_WHERE]


def __getattr__(name: str) -> Any:
    if name == "methods":
        return importlib.import_module("continual.methods")
    if name not in _WHERE:
        raise AttributeError(f"module 'continual' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
