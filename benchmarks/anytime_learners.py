"""Learners that look at as many of an image's eight views as it needs: accuracy against passes, beside all views.

    python benchmarks/anytime_learners.py --images DIR --weights FILE --cache DIR --out learner_passes_SET.json

Images and what the network says of all their views are those of `anytime.py` (its cache is used, or made): 20 images of
each class to learn from, 15 others tested, in every position of D4. Rows are learners, as anybody would use them, on
remembered features: `passes` is a setting of the same learned model, chosen in no way by the test images. "First views"
are as many for every image, in the same order. "Alarms" is the share of test images that are called unknown where 5 %
are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from anytime_views import Looked, looked, study
from arguments import Figures, Size, Weights
from remembered import RememberedViT, remembering
from torch import Tensor
from turned_images import Study, network

import equivariant as eq
from continual.backbones.loading import Backbone, load_backbone
from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.feature_cache import digest
from continual.methods import method

D4 = eq.as_group("D4")
PASSES = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)


@dataclass(frozen=True)
class Labelled:
    """A data set of prepared images (n, 3, H, W) and class indices (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    @property
    def experience(self) -> ExperienceData:
        """The same, to be learned at once."""
        return ExperienceData(self, self, self.labels.tolist())


def remembered(backbone: Backbone, data: Study, parts: dict[str, Looked]) -> Backbone:
    """Return a backbone that has looked at all views of the images of a study."""
    made = remembering(backbone)
    vit = made.frozen
    assert isinstance(vit, RememberedViT)
    for name, part in parts.items():
        assert part.strata is not None, "the cache is of an older version: remove it"
        views = eq.orbit(D4, getattr(data, name)[0].float()).transpose(0, 1).flatten(0, 1)
        vit.rows |= {digest(view): len(vit.tokens) + number for number, view in enumerate(views)}
        vit.tokens = torch.cat([vit.tokens, part.strata.flatten(0, 1).float()])
    return made


def learned(backbone: Backbone, name: str, data: Labelled, **settings: Any) -> Any:
    """Return a learner of one experience."""
    learner = method(name)(backbone, **settings)
    training = learner.start_training(data.experience)
    learner.complete(training)
    return learner


def measured(learner: Any, test: Labelled, passes: float) -> dict[str, float]:
    """Return what a learner answers on test images; `passes` where it does not say how often it looked.

    In every position without a group; in two with one, as the answers are the same.
    """
    elements = range(D4.order) if learner.settings.group is None else (D4.identity, D4.order - 1)
    views = eq.orbit(D4, test.images, elements=[*elements])
    found = [Scores.joined([learner.score_batch(part) for part in view.split(25)]) for view in views]
    answers = torch.stack([scores.values.argmax(1) for scores in found])
    right = (answers == test.labels).double().mean(1)
    upright = found[0]
    return {
        "upright": float(right[0]),
        "transformed": float(right.mean()),
        "same": float((answers == answers[0]).all(0).double().mean()),
        "passes": passes if upright.passes is None else float(upright.passes.mean()),
        "alarms": float((upright.p_value <= 0.05).double().mean()),
    }


def rows(backbone: Backbone, train: Labelled, test: Labelled) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the figures of every row."""
    for name, own in (("strata", {"mirror": False}), ("ridge", {})):
        plain = learned(backbone, name, train)
        yield f"{name}, plain", measured(plain, test, 2 if name == "strata" else 1)
        whole = learned(backbone, name, train, group="D4", symmetry="equitune", **own)
        yield f"{name}, all views", measured(whole, test, D4.order)
        for passes in PASSES:
            yield f"{name}, passes={passes:g}", measured(whole.variant(passes=passes), test, 0)
        for views in (1, 2, 3, 4):
            yield f"{name}, first {views}", measured(whole.variant(symmetry="frame", views=views), test, views)


def main(
    images: Annotated[Path, typer.Option(help="A folder with one folder per class, without an up.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="The cache of anytime.py.")],
    out: Figures,
    seed: Annotated[list[int] | None, typer.Option(help="Of splits; 2, 3 and 4 by default.")] = None,
    size: Size = 98,
    classes: int = 15,
    per_class: Annotated[int, typer.Option(help="Images of each class, every fifth left out.")] = 25,
) -> None:
    """Measure seeds that are not in the file of figures yet."""
    found = json.loads(out.read_text()) if out.exists() else {}
    vit, preparation = network("vit", weights, size)
    for s in seed or [2, 3, 4]:
        if str(s) in found:
            continue
        data = study(images, s, classes, per_class, preparation)
        parts = looked(cache / f"{images.name}-{s}-D4", D4, lambda data=data: data, lambda: vit)  # type: ignore[misc]
        backbone = remembered(load_backbone(weights=weights, img_size=size), data, parts)
        train, test = (Labelled(given.float(), labels) for given, labels in (data.train, data.test))
        found[str(s)] = own = {}
        for row, figures in rows(backbone, train, test):
            own[row] = figures
            print(s, row, json.dumps(figures), flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
