"""What a regression is solved with in numpy: part of the learner of an edge device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LEVELS, POWER, CLOSE, MOST_COLUMNS, CLAMPED = 1024, 1.25, 1e-6, 1024, 1e4
TEMPERATURES, PER_DECADE = 10 ** np.linspace(-2, 2, 161), 40
COSINE_TEMPERATURES = 10 ** np.linspace(-4, 1, 161)
SHARES, RISEN = tuple(10 ** (k / 4) for k in range(8, -17, -1)), 1.1
#: rows of a triangular system that are solved at a time
BLOCK = 64

Arrays = dict[str, np.ndarray]

#: what images left out said; distances from a single class, and values among several, are two scores
USUAL = ("losses", "ood_scores", "images", "classes")


def one_class(arrays: Arrays) -> bool:
    """Tell whether what is usual was found among images of a single class."""
    return 0 < float(arrays["classes"]) < 2


def balanced(sums: Arrays, exponent: float) -> Arrays:
    """Return the sums in which classes weigh alike at 1, as they are at 0; see `GramStatistics.balanced`."""
    counts = sums["counts"]
    if exponent == 0 or (counts == counts[0]).all():
        return sums
    each = image_weights(counts, exponent)
    moved = (sums["targets"] * ((each - 1) / np.clip(counts, 1, None))) @ sums["targets"].T
    targets = sums["targets"] * each
    return {"total": targets.sum(1), "gram": sums["gram"] + moved, "targets": targets, "counts": counts * each}


def image_weights(counts: np.ndarray, exponent: float) -> np.ndarray:
    """Return what an image of each class (C,) weighs, 1 in the mean of all images."""
    each = np.clip(counts, 1, None) ** -exponent
    return np.asarray(each * (counts.sum() / (counts @ each)))


def moments(sums: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and deviation (D,) of all images; 1 for a feature that never varied."""
    count = sums["counts"].sum()
    mean = sums["total"] / count
    variance = np.clip(sums["gram"].diagonal() / count - np.square(mean), 0, None)
    varies = variance > 1e-12 * (1 + np.square(mean))
    return mean, np.where(varies, np.sqrt(np.where(varies, variance, 1.0)), 1.0)


def best_penalty(values: np.ndarray, explained: np.ndarray, total: float, count: float) -> float:
    """Return the penalty of least expected error; see `continual.statistics.ridge.best_penalty`."""
    values = np.clip(values, 0, None)
    unit, best = max(float(values.mean()), 1e-12), (np.inf, np.inf)
    for penalty in SHARES:
        held = values + penalty * unit
        left = total - float((explained * (2 / held - values / np.square(held))).sum())
        free = count - float((values / held).sum())
        share = max(left, 0.0) / total * (count / free) ** 2 if total > 0 and free > 0 else 1.0
        if share < best[1]:
            best = penalty * unit, share
        elif share > RISEN * best[1]:
            break
    return float(best[0])


def forward_solved(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve L x = b, block by block: numpy has no solver for triangles."""
    found = np.array(right, float)
    for start in range(0, len(lower), BLOCK):
        rows = slice(start, start + BLOCK)
        found[rows] = np.linalg.solve(lower[rows, rows], found[rows] - lower[rows, :start] @ found[:start])
    return found


def back_solved(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve L^T x = b."""
    found = np.array(right, float)
    for start in reversed(range(0, len(lower), BLOCK)):
        rows, stop = slice(start, start + BLOCK), min(start + BLOCK, len(lower))
        found[rows] = np.linalg.solve(lower[rows, rows].T, found[rows] - lower[stop:, rows].T @ found[stop:])
    return found


def t_left_out(values: Any, leverage: Any, targets: Any) -> Any:
    """Return t of learned images as if they had not been, of values, leverages and targets."""
    return (values - leverage * targets) / np.sqrt(np.clip(leverage * (1 - leverage), 1e-12, None))


def losses_at(temperatures: np.ndarray, values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the cross-entropy at each temperature of values (n, C), by weights (n,); see `temperature.losses_at`."""
    smooth, found = 1 / (1 + len(values)), np.empty(len(temperatures))
    for place, temperature in enumerate(temperatures):
        logs = values / temperature
        logs = logs - logs.max(-1, keepdims=True)
        logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
        each = -(1 - smooth) * logs[np.arange(len(labels)), labels] - smooth * logs.mean(-1)
        found[place] = each @ weights
    return found


def quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return LEVELS quantiles of weighted values."""
    order = np.argsort(values, kind="stable")
    upto = weights[order].cumsum()
    wanted = (np.arange(LEVELS) + 0.5) / LEVELS * upto[-1]
    return np.asarray(values[order][np.clip(np.searchsorted(upto, wanted), None, len(values) - 1)])


def softmax(values: np.ndarray) -> np.ndarray:
    """Return exp of rows, of sum 1."""
    found = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(found / found.sum(-1, keepdims=True))


def agreeing(probabilities: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return probabilities of which the answer's is the largest."""
    best = probabilities.max(-1, keepdims=True)
    answered = np.arange(values.shape[1]) == values.argmax(-1)[:, None]
    return np.where(answered, best, np.minimum(probabilities, best * (1 - CLOSE)))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return np.asarray(rows / np.clip(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12, None))


def cosines_left_out(rows: np.ndarray, means: np.ndarray, count: np.ndarray, own: int) -> np.ndarray:
    """Return cosines (n, C) of images of one class, of so many, with class means, of their own without each."""
    values = unit(rows) @ unit(means).T
    others = (means[own] * np.float32(count) - rows) / np.float32(count - 1)
    values[:, own] = (unit(rows) * unit(others)).sum(-1)
    return np.asarray(values)


def wider(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Return an array with zeros behind, of that size along an axis."""
    more = [(0, size - values.shape[axis] if place == axis else 0) for place in range(values.ndim)]
    return np.pad(values, more)


def left_out(
    views: np.ndarray,
    own: int,
    seen: Arrays,
    sums: Arrays,
    system: tuple[np.ndarray, np.ndarray, np.ndarray],
    head: tuple[np.ndarray, np.ndarray],
    shares: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return t (R, n, C) and leverages (R, n) of images of one class that are in the sums, as if each had not been.

    `views` are (n, V, D), `shares` (R, V) of them are asked about; None for one view where classes weigh as learned.
    `system` is L, mean and deviation, `sums` what it was made of, and `seen` the same with classes as learned. See
    `continual.uncertainty.left_out.t_left_out_weighted`.
    """
    (lower, mean, deviation), (weight, bias) = system, head
    n, v, width = views.shape
    count, classes = sums["counts"].sum(), len(bias)
    target, readout = np.eye(classes)[own], views.reshape(-1, width) @ weight + bias
    if shares is None:
        white = forward_solved(lower, ((views[:, 0] - mean) / deviation).T)
        h = np.square(white).sum(0) + 1 / count
        return t_left_out(readout, h[:, None], target)[None], (h / (1 - h))[None]
    centre = seen["targets"][:, own] / seen["counts"][own]
    k = forward_solved(lower, ((centre - mean) / deviation)[:, None])[:, 0]
    white = forward_solved(lower, ((views.reshape(-1, width) - mean) / deviation).T).T.reshape(n, v, -1)
    u = np.concatenate([white - k, np.broadcast_to(k, (n, 1, len(k)))], 1)
    theirs, usual = centre @ weight + bias, sums["counts"] / count
    ours = readout.reshape(n, v, classes) - theirs
    values = np.concatenate([ours, np.broadcast_to(theirs - usual, (n, 1, classes))], 1)
    step, share = 1 / (seen["counts"][own] - 1), sums["counts"][own] / count
    pull, each, even = sums["counts"][own] * step, 1 / v, np.full(v, 1 / v)
    change = np.zeros((v + 1, v + 1))
    change[:v, :v] = each * np.eye(v) + (step * each * v - pull * step * (1 - share)) * np.outer(even, even)
    change[:v, v] = change[v, :v] = pull * even
    place = np.concatenate([shares + share * step * even, np.ones((len(shares), 1))], 1)
    products = u @ u.transpose(0, 2, 1)
    without = np.linalg.solve(np.eye(v + 1) - products @ change, np.concatenate([products, values], 2))
    left = without[:, :, v + 1 :] - (without[:, :, :v] @ even)[:, :, None] * (pull * (target - usual))
    f = usual + np.einsum("ri,nic->rnc", place, left)
    h = np.clip(1 / count + np.einsum("ri,nij,rj->rn", place, without[:, :, : v + 1], place), 1e-12, None)
    return f / np.sqrt(h)[..., None], h


def file_identity(place: str | Path) -> tuple[int, ...] | None:
    """Return what tells a file from another that took its place; None where there is none."""
    try:
        found = Path(place).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def write_whole(place: Path, arrays: Mapping[str, Any]) -> None:
    """Write an npz, whole or not at all; two processes at it leave the file of one of them."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.new")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(place)
