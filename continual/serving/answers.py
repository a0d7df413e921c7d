"""What the server says of an image, as JSON values."""

from __future__ import annotations

from typing import Any

from continual.learning.answers import Scores
from continual.serving.model import Served

BEST = 5  #: classes listed


def answer(model: Served, scores: Scores, row: int, unknown_rate: float) -> dict[str, Any]:
    """Return what `Prediction` has for one image of a batch; what the method does not know is None.

    `best` lists the likeliest classes, `nearest` those whose prototypes have the largest cosine.
    """
    classes = model.learner.classes
    values = scores.values[row]
    order = values.argsort(descending=True).tolist()[:BEST]
    probabilities = None if scores.probabilities is None else scores.probabilities[row].tolist()
    nearest = None
    if scores.similarity is not None:
        cosines = scores.similarity[row]
        near = cosines.argsort(descending=True).tolist()[:BEST]
        nearest = [{"class": classes[c], "similarity": float(cosines[c])} for c in near]
    familiarity = None if scores.familiarity is None else float(scores.familiarity[row])
    return {
        "answer": classes[order[0]],
        "score": float(values[order[0]]),
        "probability": None if probabilities is None else probabilities[order[0]],
        "unknown": None if familiarity is None else familiarity <= unknown_rate,
        "familiarity": familiarity,
        "stack": None if scores.stack is None else int(scores.stack[row]),
        "refinements": None if scores.refinements is None else int(scores.refinements[row]),
        "best": [
            {
                "class": classes[c],
                "score": float(values[c]),
                "probability": None if probabilities is None else probabilities[c],
            }
            for c in order
        ],
        "nearest": nearest,
    }


def described(model: Served) -> dict[str, Any]:
    """Return which model answers."""
    learner = model.learner
    return {"method": learner.method, "classes": len(learner.classes), "updates": learner.state.updates}
