"""Estimates of time: a slow machine is not made to repeat what warms up a fast one."""

from __future__ import annotations

import pytest

from continual.lifecycle import estimate


@pytest.mark.parametrize(("took", "rounds"), [(0.1, 2), (5.0, 1)])
def test_a_slow_step_is_measured_once(took: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = 0.0, 0

    def work() -> int:
        nonlocal now, called
        now, called = now + took, called + 1
        return called

    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now)
    assert estimate._timed(work) == (pytest.approx(took), rounds)
