"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: progress(stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]
