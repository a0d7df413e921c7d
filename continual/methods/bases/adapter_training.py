"""Training one adapter stack and a head on a frozen backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from continual import distributed
from continual.adapters.bottleneck import AdapterStack, StackWeights
from continual.backbones.vit import FrozenViT
from continual.data.inputs import ExperienceData
from continual.learning.learner import IncrementalLearner
from continual.learning.state import S
from continual.learning.training import GradientTraining, Output
from continual.seeding import generator
from continual.statistics.prototypes import cosine_scores


def new_stack(learner: IncrementalLearner[Any], weights: StackWeights | None = None, *keys: int) -> AdapterStack:
    """Return a stack to train: a fresh identity, or one that goes on from given weights.

    Fresh stacks of the same `keys` start from the same numbers.
    """
    settings, backbone = learner.settings, learner.backbone
    stack = AdapterStack(
        backbone.depth,
        backbone.width,
        settings.bottleneck,
        scale=settings.adapter_scale,
        dropout=settings.adapter_dropout,
        generator=generator(settings.seed, "adapters", *keys),
    )
    if weights is not None:
        stack.load_state_dict(dict(weights))
    return stack


class AdapterTraining(GradientTraining[S]):
    """Train one adapter stack, from the weights it holds, and the head. Settings are `AdapterSettings`."""

    def __init__(
        self,
        learner: IncrementalLearner[S],
        data: ExperienceData,
        stack: AdapterStack,
        head: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__(learner, data, head, stack=stack)
        self.stack = stack
        self.noise: torch.Generator | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the adapters at `lr` and the head at `head_lr_ratio * lr`."""
        lr = self.settings.lr
        return [
            {"params": list(self.stack.parameters()), "lr": lr},
            {"params": list(self.head.parameters()), "lr": lr * self.settings.head_lr_ratio},
        ]

    def start_epoch(self, epoch: int) -> None:
        """Seed the adapters' dropout for this epoch (counted from 0)."""
        keys = ("dropout", self.before.updates, epoch)
        self.noise = generator(self.settings.seed, *keys, device=self.learner.device)

    def forward(self, images: Tensor) -> Output:
        """Return features and logits of prepared images (B, 3, H, W)."""
        prefix = self.single.prefix(images)
        masks = None
        if self.noise is not None:
            masks = self.stack.masks(prefix.h.shape[0], prefix.h.shape[1], self.noise, distributed.part())
            if masks is not None:
                trunk = self.learner.backbone.trunk
                assert isinstance(trunk, FrozenViT)
                masks[-1] = trunk.read(masks[-1], prefix)
        features = self.single.features(
            prefix,
            self.stack.bind(masks),
            checkpoint=self.settings.checkpoint_activations,
            compiled=self.settings.compile,
        )
        return Output(features, self.head(features))


class CosineHead(nn.Module):
    """Logits (B, C): the cosines of features (B, D) to C learned directions, times one learned scale, 1 at first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.scale = nn.Parameter(weight.new_ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.scale * cosine_scores(features, self.weight)


class PrototypeAdapterTraining(AdapterTraining[S]):
    """Train a stack under a temporary `CosineHead`, as the published codes of APER, RanPAC and EASE do.

    What it learns is then told by directions, as cosine to prototypes is, and not by the features' length.
    """

    def __init__(self, learner: IncrementalLearner[S], data: ExperienceData, stack: AdapterStack) -> None:
        super().__init__(learner, data, stack, None)
        self.head = self.modules["head"] = CosineHead(self.head.weight)  # type: ignore[assignment]
