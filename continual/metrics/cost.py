"""What a method costs: time, passes and memory."""

from __future__ import annotations

from functools import partial
from math import inf

from continual.metrics import base
from continual.metrics.base import Series, mean_of_present, total
from continual.metrics.cell import Cell

metric = partial(base.metric, higher_is_better=False, range=(0, inf))


@metric(
    heading="learning [s]", table="main", order=70, factor=1, decimals=0, reduce=total,
    curve="Seconds to learn each experience.",
)  # fmt: skip
def learning_seconds(cell: Cell) -> Series:
    """Seconds in all."""
    return cell.each("learning_seconds")


@metric(heading="waiting for images [%]", table="further", order=71, reduce=mean_of_present, range=(0, 1))
def waiting(cell: Cell) -> Series:
    """The share of the training loop's time; of a GPU, which works on meanwhile, at most so much was idle."""
    return cell.each("waiting")


@metric(heading="evaluation [s]", table="further", order=72, factor=1, decimals=0, reduce=total)
def evaluation_seconds(cell: Cell) -> Series:
    """Seconds in all; the features of frozen weights are remembered from one experience to the next."""
    return cell.each("evaluation_seconds")


@metric(
    heading="inference [ms/image]", table="main", order=73, factor=1000, decimals=2,
    curve="Milliseconds to answer an image, with nothing remembered.",
)  # fmt: skip
def inference_seconds(cell: Cell) -> Series:
    """The time of an answer, of one batch with nothing remembered, after the last experience."""
    return cell.each("inference_seconds")


@metric(heading="passes an image", table="main", order=74, factor=1, decimals=2)
def passes(cell: Cell) -> Series:
    """Forward passes of the whole backbone for an answer."""
    return cell.each("passes")


@metric(
    heading="memory [MiB]", table="main", order=75, factor=2**-20, decimals=2,
    curve="What is stored beside the frozen backbone.",
)  # fmt: skip
def memory(cell: Cell) -> Series:
    """Bytes stored after the last experience beside the frozen backbone."""
    return cell.each("memory")


@metric(heading="numbers stored [10³]", table="further", order=76, factor=1e-3)
def parameters(cell: Cell) -> Series:
    """Numbers stored after the last experience beside the frozen backbone."""
    return cell.each("parameters")
