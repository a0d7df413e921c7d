"""A short list of backbones by size and purpose, for those who have none in mind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from timm.models import is_model

from continual.backbones.loading import check_tag, in_cache
from continual.errors import BackboneError, nearest


@dataclass(frozen=True)
class Recommended:
    """A tag of timm, and when to take it; weights under Apache-2.0."""

    tag: str
    purpose: str
    megabytes: int  #: to be fetched: of the weights in float32, the classifier included
    pixels: int  #: the side of its input, with `model_args`
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What it is for, and what it takes."""
        arguments = "".join(f" --model-arg {key}={value}" for key, value in self.model_args.items())
        return f"{self.purpose}; {self.megabytes} MB, {self.pixels} px{f', with{arguments}' if arguments else ''}"


#: the first is the default. DINOv2's own size, 518 px, is for maps of details: classes need no more than 224.
RECOMMENDED = (
    Recommended("vit_small_patch14_dinov2.lvd142m", "to begin with, on a CPU too", 88, 224, {"img_size": 224}),
    Recommended("vit_base_patch14_dinov2.lvd142m", "more accurate, four times the work", 346, 224, {"img_size": 224}),
    Recommended("vit_base_patch16_224.augreg_in21k", "to compare with published figures: MOS's own", 410, 224),
    Recommended("vit_tiny_patch16_224.augreg_in21k", "small and quick, with every method", 39, 224),
    Recommended("tf_efficientnet_lite0.in1k", "a CNN for small machines: strata, ridge, simple_cil", 19, 224),
)


def there() -> Recommended | None:
    """Return the first one whose weights were fetched before; no network is asked."""
    return next((choice for choice in RECOMMENDED if in_cache(choice.tag)), None)


def check(name: str) -> None:
    """Raise BackboneError for a name that timm does not have, or has no weights of; nothing is made or fetched."""
    architecture = name.split(".")[0]
    if not is_model(architecture):
        raise BackboneError(f"unknown timm model {name!r}: {nearest(architecture, timm.list_models())}")
    check_tag(name)
