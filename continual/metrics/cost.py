"""What a method costs: time, passes and memory."""

from __future__ import annotations

from math import inf
from typing import Any

from continual.metrics.base import Metric, Series, mean_of_present, metric, total
from continual.metrics.cell import Cell


def recorded(name: str, meaning: str, **shown: Any) -> Metric:
    """Return the metric that is a field of `Evaluation`; `shown`: see `Metric`."""

    def compute(cell: Cell) -> Series:
        return cell.each(name)

    compute.__doc__ = meaning
    return metric(**{"name": name, "higher_is_better": False, "range": (0, inf), **shown})(compute)


learning_seconds = recorded(
    "learning_seconds", "Seconds in all.", heading="learning [s]", table="main", order=70, factor=1, decimals=0,
    reduce=total, curve="Seconds to learn each experience.", brief=True,
)  # fmt: skip
waiting = recorded(
    "waiting", "The share of the training loop's time; of a GPU, which works on meanwhile, at most so much was idle.",
    heading="waiting for images [%]", table="further", order=71, reduce=mean_of_present, range=(0, 1),
)  # fmt: skip
evaluation_seconds = recorded(
    "evaluation_seconds",
    "Seconds in all; the features of frozen weights are remembered from one experience to the next.",
    heading="evaluation [s]", table="further", order=72, factor=1, decimals=0, reduce=total,
)  # fmt: skip
inference_seconds = recorded(
    "inference_seconds", "The time of an answer, of one batch with nothing remembered, after the last experience.",
    heading="inference [ms/image]", table="main", order=73, factor=1000, decimals=2,
    curve="Milliseconds to answer an image, with nothing remembered.",
)  # fmt: skip
passes = recorded(
    "passes", "Forward passes of the whole backbone for an answer.",
    heading="passes per image", table="main", order=74, factor=1, decimals=2,
)  # fmt: skip
memory = recorded(
    "memory", "Bytes stored after the last experience beside the frozen backbone.",
    heading="memory [MiB]", table="main", order=75, factor=2**-20, decimals=2,
    curve="What is stored beside the frozen backbone.",
)  # fmt: skip
parameters = recorded(
    "parameters", "Numbers stored after the last experience beside the frozen backbone.",
    heading="numbers stored [10³]", table="further", order=76, factor=1e-3,
)  # fmt: skip
