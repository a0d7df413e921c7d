"""Class names as a prior of a regression: its weights are drawn to what CLIP's text tower says of a name, not to 0.

CLIP compares an image, of which x (D,) is the feature of its image tower, with the text t (E,) of a name by x^T P t, P
(D, E) the tower's projection. So P t is a direction in the features; it is put where a method reads these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from continual.backbones.clip import created, text_rows
from continual.backbones.loading import Backbone
from continual.data.inputs import Label
from continual.errors import BackboneError, InputError
from continual.methods.bases.regression_update import FixedFeatureSettings, RegressionState
from continual.seeding import seeded
from continual.statistics.prior import Prior

#: names that say nothing: numbers, also behind a letter or a word that any class could have
NUMBERED = re.compile(r"(?:class|label|category|id|[a-z])?[\W_]*\d+", re.IGNORECASE)


class TextPriorSettings(FixedFeatureSettings):
    """What a regression has that may be drawn to class names."""

    at_training = FixedFeatureSettings.at_training | {"text_weights"}

    text_prior: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.0, description="on a CLIP's image tower: how long the weights are that class names stand for, 0 for none; "
        "auto: as long as explains the images best"
    )  # fmt: skip
    text_tower: str | None = Field(
        None, description="with text_prior: open_clip's name of that CLIP and its weights' tag, e.g. ViT-B-16.openai"
    )
    text_weights: str | None = Field(None, description="a file of that CLIP's weights, where they are not downloaded")
    text_template: str = Field("a photo of a {}.", description="what a class name, put for {}, is read in")

    @model_validator(mode="after")
    def _whole(self) -> TextPriorSettings:
        if "{}" not in self.text_template:
            raise ValueError(f"text_template {self.text_template!r} has no {{}}, where a class name goes")
        if self.text_prior and not self.text_tower:
            raise ValueError("text_prior needs the CLIP of the backbone's image tower: text_tower='ViT-B-16.openai'")
        return self


class Place(NamedTuple):
    """Where a method reads the class token of a ViT among the numbers that it reads of a part of the backbone."""

    start: int
    width: int  #: of all numbers that are read of the part
    gain: bool = False  #: whether the token is read before the last norm's gain


@dataclass(frozen=True)
class TextTower:
    """What a CLIP says of names, and by what its image tower is recognised."""

    directions: Tensor  #: P t, (D, C)
    gain: Tensor  #: of the last norm (D,)
    patches: Tensor  #: the weights that patches are embedded with (D, 3, h, w)

    @classmethod
    @torch.no_grad()
    @seeded(0, "random weights, soon replaced")
    def of(cls, tower: str, weights: str | None, prompts: Sequence[str]) -> TextTower:
        """Read prompts; raises BackboneError for a CLIP that cannot be had, or is another kind of network."""
        model, tokenize = created(tower, None if weights is None else Path(weights))
        visual = model.visual
        if not isinstance(getattr(visual, "proj", None), Tensor) or getattr(visual, "pool_type", "tok") != "tok":
            raise BackboneError(f"text_prior goes with a CLIP of OpenAI's form, a ViT with a class token, not {tower}")
        text = text_rows(model, tokenize, prompts, ["{}"])
        return cls(
            *(own.detach().clone() for own in (visual.proj @ text.mT, visual.ln_post.weight, visual.conv1.weight))
        )

    def sees_as(self, part: Backbone) -> bool:
        """Tell whether a backbone is this CLIP's image tower, by the weights of its patches."""
        own = getattr(getattr(getattr(part.frozen.network, "patch_embed", None), "proj", None), "weight", None)
        if own is None or own.shape != self.patches.shape:
            return False
        # Files may hold them in half precision.
        return bool((own.cpu().float() - self.patches).abs().max() <= 2e-3 * self.patches.abs().max())


def prior_of(state: RegressionState, settings: TextPriorSettings) -> Prior | None:
    """Return what the weights are drawn to; None for 0, and of a single class, whose name has nothing to tell apart."""
    if state.prior is None or not settings.text_prior or len(state.classes) < 2:
        return None
    return Prior(state.prior, None if settings.text_prior == "auto" else float(settings.text_prior))


def directions(
    before: RegressionState,
    names: Sequence[Label],
    settings: TextPriorSettings,
    backbone: Backbone,
    place: Callable[[Backbone], Place],
) -> Tensor | None:
    """Return a direction (D', C) for each class in what a method reads, those of old classes as they are.

    It is 0 outside the class token of the image tower. None without a prior. Raises InputError for a name that means
    nothing, or without open_clip, and BackboneError for a CLIP that cannot be had or does not fit the backbone.
    """
    new = names[len(before.classes) :]
    if not settings.text_prior or not new:
        return before.prior
    prompts = [settings.text_template.replace("{}", readable(name)) for name in new]
    assert settings.text_tower is not None
    tower = TextTower.of(settings.text_tower, settings.text_weights, prompts)
    if not any(tower.sees_as(part) for part in backbone.parts):
        raise BackboneError(
            f"{backbone.name} is not the image tower of {settings.text_tower}, whose texts say nothing of its "
            "features: name the CLIP that it is of as text_tower, or take that one's tower as the backbone"
        )
    rows = []
    for part in backbone.parts:
        start, width, gain = place(part)
        own = torch.zeros(width, len(new))
        if tower.sees_as(part):
            found = tower.directions * tower.gain[:, None] if gain else tower.directions
            own[start : start + len(found)] = found
        rows.append(own)
    found = torch.cat(rows)
    return found if before.prior is None else torch.cat([before.prior, found.to(before.prior)], 1)


def readable(name: Label) -> str:
    """Return a class name as words; raises InputError for one that means nothing.

    >>> readable("hex_nut")
    'hex nut'
    """
    words = " ".join(str(name).replace("_", " ").split())
    if not isinstance(name, str) or NUMBERED.fullmatch(words) or not any(letter.isalpha() for letter in words):
        raise InputError(
            f"the class {name!r} is no name that means something, which text_prior needs: rename the class (its "
            "folder, or with `equimos rename`), or leave text_prior out"
        )
    return words
