"""A method on small data: what the laws are checked on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, assemble, create
from continual.data.inputs import Label
from continual.learning.learner import IncrementalLearner

Learner = IncrementalLearner[Any]
Images = tuple[Tensor, list[Label]]  #: uint8 (N, 3, H, W) and N labels


@dataclass(frozen=True)
class Case:
    """A method, and small data for it."""

    make: Callable[..., Learner]  #: make(**settings) -> a new learner, each time on the same backbone
    experiences: Sequence[Images]  #: at least three, of 2, 1 and any number of new classes
    images: Tensor  #: to predict; uint8 (N, 3, H, W)

    @cached_property
    def learned(self) -> Learner:
        """A learner of the first two experiences; a law that changes it takes `learned.variant()`."""
        return self.after(self.experiences[:2])

    def after(self, experiences: Sequence[Images], workers: int = 0, **settings: Any) -> Learner:
        """Return a new learner that has learned the given experiences."""
        learner = self.make(**settings)
        for images, labels in experiences:
            learner.learn(images, labels, workers=workers)
        return learner


def reloaded(learner: Learner, *, embed: bool = False) -> Learner:
    """Return a learner as its file gives it back."""
    with TemporaryDirectory() as folder:
        learner.save(Path(folder) / "model", embed_backbone=embed)
        return type(learner).load(Path(folder) / "model", None if embed else learner.backbone, device=learner.device)


def coloured_squares(classes: Sequence[int], per_class: int = 8, seed: int = 0) -> tuple[Tensor, list[int]]:
    """Return noisy images, uint8 (N, 3, 16, 16), of one colour pattern a class, and their labels."""
    images, labels = [], []
    for label in classes:
        pattern = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1000 + label))
        pattern = pattern.repeat_interleave(4, 1).repeat_interleave(4, 2)
        noise = torch.Generator().manual_seed(seed * 7919 + label)
        for _ in range(per_class):
            image = pattern + 0.08 * torch.randn(3, 16, 16, generator=noise)
            images.append((image.clamp(0, 1) * 255).to(torch.uint8))
            labels.append(label)
    return torch.stack(images), labels


#: timm model arguments of `tiny_backbone`
TINY_ARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
#: those of `tiny_convnet`
CONVNET_ARGS = {"img_size": 16, "zero_init_last": False, "layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


def tiny_backbone(seed: int = 0) -> Backbone:
    """Return a random ViT of width 32 with 2 blocks, for images of 16 x 16."""
    return _tiny("vit_tiny_patch16_224", TINY_ARGS, seed)


def tiny_convnet(seed: int = 0) -> Backbone:
    """Return a random ResNet of width 32 with 5 stages, for images of 16 x 16: for methods that run on any backbone."""
    return _tiny("resnet18", CONVNET_ARGS, seed)


def tiny_backbones(seed: int = 0) -> Backbone:
    """Return that ViT and, for images of 24 x 24, such a ResNet side by side, each with preprocessing of its own."""
    convnet = _tiny("resnet18", {**CONVNET_ARGS, "img_size": 24}, seed + 1, mean=(0.5, 0.4, 0.3), crop_pct=0.95)
    return side_by_side([tiny_backbone(seed), convnet])


def _tiny(name: str, arguments: dict[str, Any], seed: int, **preprocessing: Any) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = create(name, arguments)
    return assemble(network, name, arguments, crop_scale=(0.5, 1.0), **preprocessing)


def synthetic_case(learner: type[Learner], backbone: Backbone | None = None, **settings: Any) -> Case:
    """Return a case of coloured squares; choose settings that train in a moment."""
    frozen = backbone or tiny_backbone()
    streams = [coloured_squares(classes, 4) for classes in ([0, 1], [2], [3, 4], [5, 6, 7])]
    return Case(
        make=lambda **changes: learner(frozen, **{**settings, **changes}),
        experiences=[(images, list(labels)) for images, labels in streams],
        images=coloured_squares(range(4), 4, seed=1)[0],
    )
