"""How sure a regression may be that was just solved, in numpy: part of the stand-alone learner."""

from __future__ import annotations

import math

import numpy as np

from continual.export.numpy_sums import (
    LEVELS,
    MOST_COLUMNS,
    PER_DECADE,
    POWER,
    TEMPERATURES,
    Arrays,
    back_solved,
    t_left_out,
)
from continual.uncertainty.largest_value import expected_largest

UNITS = ("typical", "leverage", "largest")


def unlike(t: np.ndarray, leverage: np.ndarray, usual: Arrays) -> np.ndarray:
    """Return the score (B,) of unknown images; see `continual.uncertainty.leverage.Certainty.unlike`."""
    largest = t.max(-1) / usual["largest"].astype(t.dtype) if "largest" in usual else t.max(-1)
    return np.asarray(-largest * (usual["leverage"].astype(t.dtype) / leverage) ** (POWER - 0.5))


def certainty(
    arrays: Arrays,
    sums: Arrays,
    system: tuple[np.ndarray, np.ndarray, np.ndarray],
    penalty: float,
    changes: np.ndarray | None,
    newest: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
) -> Arrays:
    """Return what says how sure a map may be that was solved; see `continual.uncertainty.certainty.certainty`.

    `system` is L, mean and deviation, `changes` standardised rows of what is ignored, `newest` views (n, V, D) with
    leverages (R, n) left out and weights (n,).
    """
    (lower, mean, deviation), rows = system, arrays["sketch"].astype(float)
    drawn = back_solved(lower, rows.T).T  # rows of A^-1's root

    def shrunk(asked: np.ndarray) -> float:
        own = penalty * np.square(asked).sum()
        return float(own if changes is None else own + np.square(asked @ changes.T).sum())

    weight, counts = arrays["weight"], sums["counts"]
    total, classes = counts.sum(), len(counts)
    leverage = max((1 + np.square(rows).sum() - shrunk(drawn)) / total, 1e-6)
    own = ((weight * sums["targets"]).sum() + arrays["bias"] @ counts) / total
    some, squares = slice(0, None, -(-classes // MOST_COLUMNS)), 0.0
    if classes > 1:
        standard, even = weight[:, some] * deviation[:, None], counts[some] / total
        squares = (np.square(lower.T @ standard).sum() - shrunk(standard.T)) / total + np.square(even).sum()
        squares = squares * classes / len(even)

    def units(own_weight: float) -> Arrays:
        share = np.clip(own_weight * leverage, 1e-6, 1 - 1e-6)
        kept = max(own, share + (1 - share) / (2 * classes))
        typical = t_left_out(kept, share, 1.0) * np.sqrt(share / leverage)
        largest = 1.0
        if classes > 1:
            value = expected_largest(float(own), float(squares), float(share), classes)
            largest = value * np.sqrt((1 - share) / leverage) / typical
        return {name: np.array(v) for name, v in zip(UNITS, (typical, leverage / (1 - share), largest), strict=True)}

    errors = (drawn / deviation).T
    own_weight, before = float(arrays.get("own_weight", 1.0)), float(arrays["images"])
    if newest is not None:
        more = newest[2].sum()
        own_weight = (before * own_weight + more * _own_weight(newest, errors, mean, total)) / (before + more)
    now = units(own_weight)
    kept = {} if "largest" in arrays and "own_weight" in arrays else _measured_by(arrays, now, units(1.0))
    return {
        "errors": errors.astype(np.float32),
        "errors_bias": -(mean @ errors).astype(np.float32),
        "share": np.array(1 / total),
        "own_weight": np.array(own_weight),
        **now,
        **kept,
    }


def _own_weight(
    newest: tuple[np.ndarray, np.ndarray, np.ndarray], errors: np.ndarray, mean: np.ndarray, total: float
) -> float:
    """Return what an image's rows weigh when it is left out; see `continual.uncertainty.certainty.LeftOut`."""
    views, leverages, weights = newest
    if views.shape[1] == 1:
        return 1.0
    rows = np.square((views - mean) @ errors).sum(-1) + 1 / total
    each = 1 / rows.mean(1) - 1 / leverages
    return float(np.clip((each @ weights / weights.sum()).mean(), 1 / views.shape[1], 1))


def _measured_by(arrays: Arrays, now: Arrays, was: Arrays) -> Arrays:
    """Return what an older file says is usual in today's units; see `Certainty.measured_by`."""
    scale = was["typical"] * (was["largest"] if "largest" in arrays else 1.0)
    scale = scale / (now["typical"] * now["largest"]) * (now["leverage"] / was["leverage"]) ** (POWER - 0.5)
    moved = round(PER_DECADE * math.log10(float(now["typical"] / was["typical"])))
    places = np.clip(np.arange(len(TEMPERATURES)) + moved, 0, len(TEMPERATURES) - 1)
    return {"losses": arrays["losses"][..., places], "ood_scores": arrays["ood_scores"] * scale}


def usual_leverage(usual: Arrays, reading: int) -> float:
    """Return the median leverage of images of a single class left out; see `Certainty.anomaly`."""
    median = usual["ood_scores"].reshape(-1, LEVELS)[reading, LEVELS // 2]
    return float(usual["leverage"] * max(-float(median), 1e-12) ** (-1 / POWER))
