"""Several frozen networks as one backbone: their features side by side, each of images prepared in its own way.

Everything that takes a backbone takes this one. What it is given are the inputs of all networks in one tensor, see
`continual.data.canvas`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from continual.backbones.base import FrozenBackbone
from continual.backbones.loading import Backbone, load_backbone
from continual.data.canvas import JoinedPreprocessing
from continual.errors import BackboneError

#: networks that can be read side by side
MOST = 16


class FrozenJoined(FrozenBackbone):
    """K frozen networks that read one picture. It has no place for adapters."""

    def __init__(self, parts: Sequence[FrozenBackbone], prepared: JoinedPreprocessing) -> None:
        super().__init__()
        # No ModuleList: of one module under two names torch.export sees proxies, so the networks alone are registered.
        self.parts = tuple(parts)
        self.network = nn.ModuleList(part.network for part in parts)
        self.prepared = prepared
        self.image_size = prepared.size
        self.width = sum(part.width for part in parts)
        self.depth = max(part.depth for part in parts)
        self.freeze()

    @property
    def channels(self) -> int:
        return self.prepared.shape[0]

    @property
    def stages(self) -> list[nn.Module]:
        return [stage for part in self.parts for stage in part.stages]

    def check_has_blocks(self, user: str) -> None:
        """Raise BackboneError, on behalf of a method: it works inside one network."""
        raise BackboneError(
            f"{user} works inside the blocks of one ViT, and these are {len(self.parts)} backbones side by side: take "
            "a method that reads frozen features alone, e.g. strata, ridge or simple_cil, or one backbone"
        )

    def stem(self, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> NoReturn:
        self.check_has_blocks("a method with adapters, prompts or weights of its own")
        raise AssertionError

    def features(
        self, images: Any, adapters: Any = None, *, weights: Mapping[str, Tensor] | None = None, **_: Any
    ) -> Tensor:
        """Return the networks' features side by side (B, D_1 + ... + D_K), as `levelled` says; takes no adapters."""
        if adapters is not None or weights is not None:
            self.stem(images)
        return levelled([part.features(own) for part, own in self._given(images)])

    def block_tokens(self, images: Tensor, blocks: int, *, patches: bool = True, until: int | None = None) -> Tensor:
        """Return what the last `blocks` blocks or stages of each network say, side by side.

        With `until`, each network ends after so many of them, or as many as it has.
        """
        read = [
            part.block_tokens(own, blocks, patches=patches, until=until and min(until, part.depth))
            for part, own in self._given(images)
        ]
        return torch.cat(read, 1)

    def _given(self, images: Tensor) -> list[tuple[FrozenBackbone, Tensor]]:
        return list(zip(self.parts, self.prepared.cut(images), strict=True))


def levelled(parts: Sequence[Tensor]) -> Tensor:
    """Return features (B, D_k) of several networks side by side (B, D), so that none drowns the others.

    Each network's are brought to mean 0, and to the length (D / K)^0.5 whatever their number: a cosine of the result is
    the mean of the networks' own, and each has the same share of a random projection.
    """
    mean = sum(part.shape[1] for part in parts) / len(parts)
    return torch.cat([layer_norm(part, part.shape[1:]) * (mean / part.shape[1]) ** 0.5 for part in parts], 1)


@dataclass(frozen=True, repr=False)
class JoinedBackbone(Backbone):
    """Several backbones as one; what is said of it is what is said of each."""

    joined: tuple[Backbone, ...] = ()

    @property
    def parts(self) -> tuple[Backbone, ...]:
        return self.joined

    def __repr__(self) -> str:
        return f"<Backbones {', '.join(map(repr, self.parts))}: {self.width} features, {self.sha256[:8]}>"

    def on(self, device: torch.device) -> Backbone:
        moved = [part.on(device) for part in self.parts]
        return self if all(a is b for a, b in zip(moved, self.parts, strict=True)) else side_by_side(moved)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "parts": [part.describe() for part in self.parts]}


def side_by_side(backbones: Sequence[Backbone]) -> Backbone:
    """Return several backbones as one, in their order; a single one as it is.

    Raises BackboneError for none, for one that is there twice, and for inputs that do not fit together; see
    `JoinedPreprocessing.of`.
    """
    parts = tuple(part for backbone in backbones for part in backbone.parts)
    if len(parts) == 1:
        return parts[0]
    if not 1 < len(parts) <= MOST:
        raise BackboneError(f"give 1 to {MOST} backbones, got {len(parts)}")
    for place, part in enumerate(parts):
        if any((part.sha256, part.preprocessing) == (other.sha256, other.preprocessing) for other in parts[:place]):
            raise BackboneError(f"{part.name} is there twice, which says nothing new: name other networks or sizes")
    prepared = JoinedPreprocessing.of([part.preprocessing for part in parts])
    frozen = FrozenJoined([part.frozen for part in parts], prepared)
    digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    name = " + ".join(part.name for part in parts)
    return JoinedBackbone(frozen, name, {}, prepared, sha256=digest, joined=parts)


def as_backbone(given: Any) -> Backbone:
    """Return the backbone that a learner was given: as it is, by its full tag, or several of either, side by side.

    Raises BackboneError for what is none.
    """
    if isinstance(given, Backbone):
        return given
    if isinstance(given, str):
        return load_backbone(given)
    if isinstance(given, Sequence):
        return side_by_side([as_backbone(each) for each in given])
    raise BackboneError(
        f"a backbone is what load_backbone(...) gives, timm's full tag, or a list of them, got {type(given).__name__}"
    )
