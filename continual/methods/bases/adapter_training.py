"""Training one adapter and a head on a frozen backbone, and answering with them."""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from continual import distributed
from continual.adapters.bank import TrainableAdapter, shared
from continual.adapters.base import Regulation, Weights, read_blocks
from continual.backbones.loading import Backbone
from continual.backbones.side_network import unpacked
from continual.backbones.vit import FrozenViT
from continual.data.inputs import ExperienceData, Label
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings, Settings
from continual.learning.state import S, State, learned
from continual.learning.training import GradientTraining, Output, Progress, Start, Training
from continual.losses.base import LossTerm
from continual.methods.bases.kept_views import keep_views
from continual.methods.bases.teaching import Taught, taught_by, use_of
from continual.seeding import generator
from continual.statistics.head import Head, cosine_scores
from continual.statistics.ignored import Ignored, orthonormal


def new_adapter(settings: AdapterSettings, backbone: Backbone, *keys: int) -> dict[str, Tensor]:
    """Return the weights of a new adapter, which adds nothing yet; those of the same `keys` are the same numbers."""
    draw = generator(settings.seed, "adapters", *keys)
    return settings.adapter_kind.new(backbone.frozen.shapes, draw)


def beginning(settings: AdapterSettings, backbone: Backbone, like: Weights | None = None) -> dict[str, Tensor]:
    """Return what the adapters of a method that merges began at, as finished ones are kept; of one, where it is."""
    begin = settings.adapter_kind.finished(new_adapter(settings, backbone))
    return begin if like is None else {name: begin[name].to(own.device) for name, own in like.items()}


@torch.no_grad()
def unread(settings: AdapterSettings, weights: Weights, ignored: Sequence[Ignored] | None) -> dict[str, Tensor]:
    """Return an adapter that does not read the directions of ignored concepts, down_l v_l = 0 in every block.

    W <- W (I - V^T V), V orthonormal. A mean of adapters that do not read them does not; other merge rules choose
    numbers one by one, and what they merge does.
    """
    known = [one.blocks for one in ignored or () if one.blocks is not None and one.final is not None]
    readers = settings.adapter_kind.token_readers & weights.keys() if known else frozenset()
    rows = orthonormal(torch.stack(known, 1)) if readers else torch.empty(0)
    moved = {
        name: weights[name] - (weights[name] @ rows.to(weights[name]).mT) @ rows.to(weights[name]) for name in readers
    }
    return {**weights, **moved}


class AdapterTraining(GradientTraining[S]):
    """Train one adapter, from the `weights` given or as a new one, and the head. Settings are `AdapterSettings`.

    New adapters of the same `keys` begin with the same numbers. Tensors that are `fixed` stay as they are given.
    """

    def __init__(
        self,
        start: Start[S],
        data: ExperienceData,
        weights: Weights | None,
        head: Head | None,
        *terms: LossTerm,
        keys: tuple[int, ...] = (),
        fixed: Collection[str] = (),
    ) -> None:
        begin = weights or new_adapter(start.settings, start.extractor.backbone, *keys)
        self.adapter = TrainableAdapter(start.settings.adapter_kind, begin, fixed)
        super().__init__(start, data, head, *terms, adapter=self.adapter)
        self.noise: torch.Generator | None = None
        self.unlabelled_images: Taught | None = None  #: what a teacher said of unlabelled images, in a second training
        self.unread()
        self.reads = len(read_blocks(start.extractor.backbone.depth, self.adapter.kind.reads))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the adapter at `lr`, times its kind's `rate`, and the head at `head_lr_ratio * lr`."""
        lr, rate = self.settings.lr, self.adapter.kind.rate(self.adapter.weights())
        return [
            {"params": list(self.adapter.parameters()), "lr": lr * rate},
            {"params": list(self.head.parameters()), "lr": lr * self.settings.head_lr_ratio},
        ]

    def start_epoch(self, epoch: int) -> None:
        """Seed the adapter's dropout for this epoch (counted from 0)."""
        keys = ("dropout", self.before.updates, epoch)
        self.noise = generator(self.settings.seed, *keys, device=self.device)
        if self.unlabelled_images is not None:
            self.unlabelled_images.begin(epoch)

    @property
    def taught(self) -> bool:
        return self.data.unlabelled is not None and self.epochs > 0

    def learn_from(self, teacher: Training[S], progress: Progress | None = None) -> None:
        assert isinstance(teacher, AdapterTraining)
        self.unlabelled_images = taught_by(teacher, progress)
        self.unlabelled_use = use_of(self.unlabelled_images, self.classes)

    @cached_property
    def regulation(self) -> Regulation | None:
        """What the adapter's kind does in training besides."""
        steps = self.epochs * -(-len(self.data.labels) // self.settings.batch_size)
        return self.adapter.kind.regulation(dict(self.adapter.named_parameters()), steps)

    def live_tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training changes, by name."""
        more = {} if self.regulation is None else self.regulation.live
        return {**super().live_tensors(), **{f"regulation/{name}": tensor for name, tensor in more.items()}}

    def loss(self, output: Output, labels: Sequence[Label]) -> Tensor:
        """Return the loss of a batch, with what the adapter's kind adds to it."""
        loss = super().loss(output, labels)
        loss = loss if self.regulation is None else loss + self.regulation.penalty()
        return loss if self.unlabelled_images is None else loss + self.unlabelled_images.loss(self, loss)

    def after_step(self) -> None:
        """Let the adapter's kind act on the new weights, and keep them from reading what is ignored."""
        if self.regulation is not None:
            self.regulation.after_step()
        self.unread()

    @torch.no_grad()
    def unread(self) -> None:
        """Take the directions of ignored concepts out of what adapter and head read, as the gradients' projection does.

        down_l v_l = 0 in every block: W <- W (I - V^T V), V orthonormal. Momentum and weight decay stay in that space.
        """
        for concepts, weight in self._unread:
            weight -= (weight @ concepts.mT) @ concepts

    @cached_property
    def _unread(self) -> list[tuple[Tensor, Tensor]]:
        """Orthonormal directions (..., k, D), and the weights (..., r, D) that are not to read them."""
        ignored = [one for one in self.before.ignored or () if one.blocks is not None and one.final is not None]
        if not ignored:
            return []
        blocks = torch.stack([one.blocks for one in ignored], 1)  # type: ignore[misc]
        final = torch.stack([one.final for one in ignored])  # type: ignore[misc]
        own = dict(self.adapter.named_parameters())
        pairs = [(orthonormal(blocks), own[name]) for name in self.adapter.kind.token_readers & own.keys()]
        return [(rows.to(weight), weight) for rows, weight in [*pairs, (orthonormal(final), self.head.weight)]]

    def training_images(self, progress: Progress | None = None) -> Any:
        """Return the images, or what the ViT makes of views of them that are kept.

        Raises InputError where a term of the loss looks at images, which are then gone.
        """
        kind = self.adapter.kind
        if not kind.views_kept:
            return super().training_images(progress)
        looking = [term.name for term in self.terms if type(term).observe is not LossTerm.observe]
        if looking:
            raise InputError(
                f"the loss term {looking[0]} looks at every image, and of cached views there are none: set "
                "adapter_args={'cached_views': 0}, or leave the term out"
            )
        where = {"seed": self.settings.seed, "experience": self.before.updates}
        size, images = self.settings.eval_batch_size, self.data.training
        return keep_views(
            images, kind.views_kept, self.single, kind.reads, batch_size=size, progress=progress,
            workers=self.workers, **where,
        )  # fmt: skip

    def forward(self, images: Tensor) -> Output:
        if images.ndim == 3:
            features = self.single.features(unpacked(images, self.reads), self.adapter.bind())
            return Output(features, self.head(features))
        # What is only read takes no gradients, and is not kept for any.
        reads, masks = self.adapter.kind.reads, None
        with torch.no_grad() if reads else nullcontext():
            stem = self.single.stem(images, reads=reads)
        if self.noise is not None:
            masks = self.adapter.masks(stem.h.shape[0], stem.h.shape[1], self.noise, distributed.part())
            if masks is not None:
                frozen = self.single.backbone.frozen
                assert isinstance(frozen, FrozenViT)
                masks[-1] = frozen.read(masks[-1], stem)
        adapters, own = self.adapter.bind(masks), self.settings
        features = self.single.features(stem, adapters, checkpoint=own.checkpoint_activations, compiled=own.compile)
        return Output(features, self.head(features))


class CosineLogits(nn.Module):
    """Logits (B, C): the cosines of features (B, D) to C learned directions, times a scale.

    The scale is learned, from 1 on, or `fixed`.
    """

    def __init__(self, weight: Tensor, fixed: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.scale = nn.Parameter(weight.new_ones(())) if fixed is None else fixed

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return self.scale * cosine_scores(features, self.weight)


class PrototypeAdapterTraining(AdapterTraining[S]):
    """Train an adapter under temporary `CosineLogits`, as the published codes of APER, RanPAC and EASE do.

    What it learns is then in directions, as cosine to prototypes is, and not in the features' length.
    """

    def __init__(self, start: Start[S], data: ExperienceData, weights: Weights | None, **options: Any) -> None:
        super().__init__(start, data, weights, None, **options)
        self.head = self.modules["head"] = CosineLogits(self.head.weight)  # type: ignore[assignment]


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
    unportable = "it remembers nothing of its classes but a head"
    unmergeable = "it remembers nothing of its classes but a head, which fits the images of one site"
    probabilities = False  # it remembers nothing that was not trained on
    settings_type: ClassVar[type[Settings]] = AdapterSettings

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        return Scores(logits(self.extractor, self.settings, self.state, images).softmax(-1))
