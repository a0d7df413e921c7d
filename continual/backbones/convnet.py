"""A frozen CNN, read at its stages; it has no place for adapters.

What a stage is, and how its map is had, is timm's to say (`feature_info`, `forward_intermediates`): so ResNets,
EfficientNets, MobileNets, ConvNeXts and the rest go one way, and other networks of maps, such as Swin, as well.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from continual.backbones.base import FrozenBackbone, TokenPart
from continual.errors import BackboneError


class FrozenConvNet(FrozenBackbone):
    """A timm network whose L stages are maps (B, D_l, H_l, W_l); weights and batch statistics never change.

    Raises BackboneError when built on a network that timm does not give in stages, or whose stages do not end in the
    features that its classifier was given.
    """

    def __init__(self, convnet: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.network = convnet
        self.image_size = image_size
        self.freeze()
        probe = self.probe()
        try:
            with torch.no_grad():
                theirs = convnet.forward_head(convnet.forward_features(probe), pre_logits=True)
                if convnet.num_classes:
                    convnet.reset_classifier(0)
                self._stages = [convnet.get_submodule(stage["module"]) for stage in convnet.feature_info]
                self.depth, self.width = len(self._stages), theirs.shape[1]
                ours, maps = self._read(probe, self.depth)
            if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
                raise ValueError("they do not end in its own features")
            if len(maps) != self.depth or any(each.ndim != 4 for each in maps):
                raise ValueError(f"its stages are {[tuple(each.shape[1:]) for each in maps]}")
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise BackboneError(
                f"a {type(convnet).__name__} cannot be read in stages of maps, for images of {image_size[0]} x "
                f"{image_size[1]} ({error}): use a CNN of timm, e.g. 'resnet50', or a ViT"
            ) from error

    @property
    def stages(self) -> list[nn.Module]:
        return self._stages

    def stem(self, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> NoReturn:
        raise BackboneError(f"{type(self.network).__name__} has no blocks that take adapters or prompts: use a ViT")

    def features(
        self, images: Any, adapters: Any = None, *, weights: Mapping[str, Tensor] | None = None, **_: Any
    ) -> Tensor:
        """Return timm's pooled features (B, D) of images (B, 3, H, W), before any classifier; takes no adapters."""
        if adapters is not None:
            self.stem(images)
        return self.forward(images) if weights is None else self.under(weights, images)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features under the network's own weights."""
        pooled = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return pooled if pooled.dtype == torch.float64 else pooled.float()

    def block_tokens(self, images: Tensor, blocks: int, *, patches: bool = True, until: int | None = None) -> Tensor:
        """Return what the features and the last `blocks` stages say of images (B, 3, H, W), side by side (B, D').

        Of a stage that is the mean of its map's positions, each first brought to mean 0 and deviation 1 over the
        channels; the features, (B, D), are brought there as they are. They alone are read without `patches`, and the
        stages alone with `until`, after which the network ends. All in float32; D' is D + D_L-K+1 + ... + D_L.
        """
        if until is None:
            features, maps = self._read(images, blocks)
            return torch.cat([_level(features), *map(_mean, maps if patches else [])], 1)
        maps = self.network.forward_intermediates(
            images, indices=list(range(max(until - blocks, 0), until)), stop_early=True, intermediates_only=True
        )
        return torch.cat([*map(_mean, maps)], 1)

    def token_parts(self, images: Tensor, blocks: int, *, patches: bool = True) -> list[TokenPart]:
        features, maps = self._read(images, blocks)
        whole = TokenPart(_level(features)[:, None])
        return [whole, *(TokenPart(_level(m.flatten(2).mT), (m.shape[2], m.shape[3])) for m in maps if patches)]

    def _read(self, images: Tensor, stages: int) -> tuple[Tensor, list[Tensor]]:
        """Return the features (B, D), and the maps of the last stages, from one pass."""
        last, maps = self.network.forward_intermediates(images, indices=min(stages, self.depth))
        return self.network.forward_head(last, pre_logits=True), maps


def _level(tokens: Tensor) -> Tensor:
    return layer_norm(tokens.float(), tokens.shape[-1:])


def _mean(found: Tensor) -> Tensor:
    """Return the mean (B, D_l) of a map's (B, D_l, H_l, W_l) positions, each brought to mean 0 and deviation 1."""
    return _level(found.flatten(2).mT).mean(1)
