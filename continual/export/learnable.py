"""What an edge device needs to learn: features as an output of the graph, and the sums of what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continual import files
from continual.backbones import described
from continual.errors import InputError
from continual.export.graphs import COLUMNS, _columns, _example, _present
from continual.export.tracing import traced
from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner
from continual.learning.state import learned
from continual.methods.bases.regression import RegressionLearner
from continual.methods.ridge import RidgeLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.head import cosine_scores
from continual.statistics.ignored import penalised
from continual.uncertainty.certainty import SKETCH

ABLE = (StrataLearner, RidgeLearner, SimpleCILLearner)


def readings(learner: IncrementalLearner[Any]) -> tuple[list[list[float]], int]:
    """Return the shares of an image's views in each way of asking, and which way is asked now.

    Raises InputError for a learner that an edge device cannot go on with.
    """
    if not isinstance(learner, ABLE):
        raise InputError(
            f"an edge device cannot learn with {learner.method}: --learnable goes with strata, ridge and simple_cil"
        )
    if learner.settings.group is not None:
        raise InputError("an edge device learns without a group: leave out --learnable, or the group")
    if getattr(learner.state, "prior", None) is not None:
        raise InputError("an edge device has no text tower to read new names with: --learnable goes without text_prior")
    if any(one.mlp is not None for one in learner.state.ignored or ()):
        raise InputError("this model answers under an edit of its network, under which an edge device cannot learn")
    certainty = getattr(learner.state, "certainty", None)
    if isinstance(learner, RegressionLearner) and certainty is not None and certainty.leverage is None:
        raise InputError("this model was learned by an older version: learn an experience with this one first")
    if not isinstance(learner, StrataLearner) or not learner.settings.mirror:
        return [[1.0]], 0
    if learner.settings.mirror_as == "sample":
        return [[1.0, 0.0], [0.5, 0.5]], learner.reading
    if learner.settings.answer_views == 1:
        raise InputError("mirror_as='mean' learns two views, and answer_views=1 asks for one: leave one of them out")
    return [[1.0]], 0


def views(learner: IncrementalLearner[Any], images: Tensor) -> Tensor:
    """Return the features (B, V, D') of prepared images that are learned."""
    if isinstance(learner, RegressionLearner):
        return torch.stack([*learner.learned_features(learner.extractor, images)], 1)
    return learner.extractor.frozen_features(images)[:, None]


def graph_with_views(learner: IncrementalLearner[Any]) -> Any:
    """Return the ONNX model of a learner with one output more, `views` (B, V, D')."""
    shares, reading = readings(learner)
    own = torch.tensor(shares[reading])

    def answer(images: Tensor) -> tuple[Scores, Tensor]:
        found = views(learner, images)
        asked = torch.einsum("v,bvd->bd", own, found)
        if isinstance(learner, RegressionLearner):
            return learner.scores_of(asked), found
        cosines = cosine_scores(asked, learned(learner.state.prototypes).mean)
        return Scores(cosines.softmax(-1), probabilities=learner.state.probabilities(cosines)), found

    images = _example(learner)
    with torch.no_grad():
        names = _present(answer(images)[0])

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        scores, found = answer(images)
        return (*_columns(scores, names), found)

    assert {*names} <= {*COLUMNS}
    return traced(outputs, [images], ["images"], [*names, "views"], learner.backbone.frozen)


def write_sums(learner: IncrementalLearner[Any], path: Path) -> None:
    """Write what was learned as numpy arrays, without pickle; raises ModelFileError if that cannot be done."""
    shares, reading = readings(learner)
    with torch.no_grad():
        width = views(learner, _example(learner)).shape[-1]
    backbones = [part["sha256"] for part in described(learner.backbone.describe())]
    about: dict[str, Any] = {"method": learner.method, "backbone": backbones, "classes": list(learner.classes)}
    about |= {"readings": shares, "reading": reading, "views": len(shares[0]), "width": width}
    arrays = _prototypes(learner) if isinstance(learner, SimpleCILLearner) else _regression(learner, about)
    with files.written(path) as temporary, temporary.open("wb") as file:
        stored: dict[str, Any] = {name: values.cpu().numpy() for name, values in arrays.items()}
        np.savez(file, about=np.array(json.dumps(about)), **stored)


def check_replaced(learner: IncrementalLearner[Any], path: Path) -> None:
    """Raise InputError if there is a file of sums at `path` that knows more than the learner: a device has learned."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            about = json.loads(str(kept["about"]))
            there = float(kept["count" if about["method"] == "simple_cil" else "counts"].sum())
    except (OSError, ValueError, KeyError):
        return  # none, or none that can be read
    state: Any = learner.current if isinstance(learner, RegressionLearner) else learner.state
    images = learned(state.sums).counts if isinstance(learner, RegressionLearner) else learned(state.prototypes).count
    more = [name for name in about["classes"] if name not in learner.classes]
    if more or there > float(images.sum()):
        what = f"the class {more[0]!r}" if more else "more images"
        raise InputError(f"{path} has learned {what} on a device, which would be lost: move it away first")


def _prototypes(learner: SimpleCILLearner) -> dict[str, Tensor]:
    found, known = learned(learner.state.prototypes), learner.state.temperature
    arrays = {"mean": found.mean, "count": found.count}
    if known is None:
        zero = torch.zeros((), dtype=torch.float64)
        return {**arrays, "losses": zero.expand(161).clone(), "images": zero, "classes": zero}
    return {**arrays, "losses": known.losses, "images": known.images, "classes": known.classes}


def _regression(learner: IncrementalLearner[Any], about: dict[str, Any]) -> dict[str, Tensor]:
    state, own = learner.current, learner.settings  # type: ignore[attr-defined]
    sums, head, certain = learned(state.sums), learned(state.head), state.certainty
    about |= {"balance": own.balance, "penalty": getattr(own, "penalty", None), "penalty_share": state.penalty_share}
    arrays = {name: getattr(sums, name) for name in ("total", "triangle", "targets", "counts")}
    arrays |= {"weight": head.weight, "bias": head.bias}
    images = float(sums.counts.sum())
    if (rows := penalised(state.ignored, images)) is not None:
        arrays |= {"ignored": rows, "ignored_images": torch.tensor(images, dtype=torch.float64)}
    if certain is None:
        return arrays
    width = len(sums.total)
    sketch = torch.eye(width)
    if width > SKETCH:
        sketch = torch.randn(SKETCH, width, generator=generator(own.seed, "sketch")) / SKETCH**0.5
    kept = {name: getattr(certain, name) for name in ("share", "typical", "losses", "ood_scores", "images", "classes")}
    errors = {"errors": certain.errors.weight, "errors_bias": certain.errors.bias, "leverage": certain.leverage}
    units = {name: getattr(certain, name) for name in ("largest", "own_weight")}
    units = {name: value for name, value in units.items() if value is not None}
    return {**arrays, **kept, **errors, **units, "sketch": sketch}
