"""Training one adapter and a head on a frozen backbone, and answering with them."""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from continual import distributed
from continual.adapters.bank import TrainableAdapter, shared
from continual.adapters.base import Shapes, Weights
from continual.backbones.loading import Backbone
from continual.backbones.vit import FrozenViT
from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings, Settings
from continual.learning.state import S, State, learned
from continual.learning.training import GradientTraining, Output, Start
from continual.losses.base import LossTerm
from continual.seeding import generator
from continual.statistics.head import Head, cosine_scores


def new_adapter(settings: AdapterSettings, backbone: Backbone, *keys: int) -> dict[str, Tensor]:
    """Return the weights of a new adapter, which adds nothing yet; those of the same `keys` are the same numbers."""
    draw = generator(settings.seed, "adapters", *keys)
    return settings.adapter_kind.new(Shapes(backbone.depth, backbone.width), draw)


class AdapterTraining(GradientTraining[S]):
    """Train one adapter, from the `weights` given or as a new one, and the head. Settings are `AdapterSettings`.

    New adapters of the same `keys` begin with the same numbers.
    """

    def __init__(
        self,
        start: Start[S],
        data: ExperienceData,
        weights: Weights | None,
        head: Head | None,
        *terms: LossTerm,
        keys: tuple[int, ...] = (),
    ) -> None:
        begin = weights or new_adapter(start.settings, start.extractor.backbone, *keys)
        self.adapter = TrainableAdapter(start.settings.adapter_kind, begin)
        super().__init__(start, data, head, *terms, adapter=self.adapter)
        self.noise: torch.Generator | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the adapter at `lr` and the head at `head_lr_ratio * lr`."""
        lr = self.settings.lr
        return [
            {"params": list(self.adapter.parameters()), "lr": lr},
            {"params": list(self.head.parameters()), "lr": lr * self.settings.head_lr_ratio},
        ]

    def start_epoch(self, epoch: int) -> None:
        """Seed the adapter's dropout for this epoch (counted from 0)."""
        keys = ("dropout", self.before.updates, epoch)
        self.noise = generator(self.settings.seed, *keys, device=self.device)

    def forward(self, images: Tensor) -> Output:
        stem = self.single.stem(images)
        masks = None
        if self.noise is not None:
            masks = self.adapter.masks(stem.h.shape[0], stem.h.shape[1], self.noise, distributed.part())
            if masks is not None:
                frozen = self.single.backbone.frozen
                assert isinstance(frozen, FrozenViT)
                masks[-1] = frozen.read(masks[-1], stem)
        adapters, own = self.adapter.bind(masks), self.settings
        features = self.single.features(stem, adapters, checkpoint=own.checkpoint_activations, compiled=own.compile)
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
    """Train an adapter under a temporary `CosineHead`, as the published codes of APER, RanPAC and EASE do.

    What it learns is then in directions, as cosine to prototypes is, and not in the features' length.
    """

    def __init__(self, start: Start[S], data: ExperienceData, weights: Weights | None, **options: Any) -> None:
        super().__init__(start, data, weights, None, **options)
        self.head = self.modules["head"] = CosineHead(self.head.weight)  # type: ignore[assignment]


@dataclass(frozen=True)
class SingleAdapterState(State):
    """One adapter and one head."""

    stack: Weights | None = None
    head: Head | None = None


def logits(extractor: Extractor, settings: AdapterSettings, state: SingleAdapterState, images: Tensor) -> Tensor:
    """Return the head's logits (B, C) of prepared images."""
    adapters = shared(settings.adapter_kind, learned(state.stack))
    return learned(state.head)(extractor.features(images, adapters))


A = TypeVar("A", bound=SingleAdapterState)


class SingleAdapterLearner(IncrementalLearner[A]):
    """Predicts with one adapter and one head."""

    correctable = False
    probabilities = False  # it remembers nothing that was not trained on
    settings_type: ClassVar[type[Settings]] = AdapterSettings

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        return Scores(logits(self.extractor, self.settings, self.state, images).softmax(-1))
