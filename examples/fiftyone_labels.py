"""equimos in FiftyOne: label a data set's samples, and correct the model from what was tagged as wrong.

    import fiftyone as fo
    from fiftyone_labels import annotate, correct

    dataset = fo.load_dataset("parts")
    annotate(dataset, learner)                       # a Classification `equimos` on every sample, with its confidence
    # in the app: tag samples whose label is wrong, and set `ground_truth`
    correct(dataset.match_tags("wrong"), learner)    # learns them, new classes as well

Samples whose image is unlike all classes get the tag `unknown`. FiftyOne is imported to make
labels alone, so that whatever has `filepath`, `tags` and fields can be given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

BATCH = 64


def classification(label: str, confidence: float | None) -> Any:
    """Return FiftyOne's label."""
    import fiftyone

    return fiftyone.Classification(label=label, confidence=confidence)


def annotate(
    samples: Iterable[Any],
    learner: Any,
    field: str = "equimos",
    false_alarm_rate: float = 0.05,
    make: Callable[[str, float | None], Any] = classification,
) -> int:
    """Give every sample a label in `field`, and the tag `unknown` where its image is of no class; return how many."""
    count, batch = 0, list[Any]()
    for sample in [*samples, None]:
        if sample is not None:
            batch.append(sample)
        if batch and (sample is None or len(batch) == BATCH):
            count += _labelled(batch, learner, field, false_alarm_rate, make)
            batch = []
    return count


def _labelled(batch: list[Any], learner: Any, field: str, rate: float, make: Callable[..., Any]) -> int:
    found = learner.predict([sample.filepath for sample in batch])
    for row, (sample, label) in enumerate(zip(batch, found.labels, strict=True)):
        sure = None if found.probabilities is None else float(found.probabilities[row].amax())
        sample[field] = make(str(label), sure)
        unknown = found.p_value is not None and bool(found.p_value[row] <= rate)
        sample.tags = [tag for tag in sample.tags if tag != "unknown"] + ["unknown"] * unknown
        sample.save()
    return len(batch)


def correct(samples: Iterable[Any], learner: Any, field: str = "ground_truth") -> dict[str, int]:
    """Learn the samples' images under the labels in `field`; return how many of each class. It is yours to save."""
    paths = defaultdict[str, list[str]](list)
    for sample in samples:
        if (label := sample[field]) is not None:
            paths[str(getattr(label, "label", label))].append(sample.filepath)
    known = {str(name): name for name in learner.classes}
    new = [(path, name) for name, own in paths.items() if name not in known for path in own]
    if new:
        learner.learn([path for path, _ in new], [name for _, name in new])
    for name, own in paths.items():
        if name in known:
            learner.correct(own, known[name])
    return {name: len(own) for name, own in paths.items()}
