"""L2P, learning to prompt: each image picks a few learned prompts by its frozen feature, and the ViT reads them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import TrainingSettings
from continual.learning.state import State, learned
from continual.learning.training import GradientTraining, Output, Progress, Start
from continual.losses.prompt_pull import PromptPull
from continual.seeding import generator
from continual.statistics.head import Head, cosine_scores


class L2PSettings(TrainingSettings):
    """Numbers of L2P: Adam at a constant rate."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"pull": 0.5}}

    epochs: int = Field(5, ge=0, description="passes over an experience")
    batch_size: int = Field(16, ge=1)
    lr: float = Field(1.875e-3, gt=0, description="Adam's rate: 0.03 batch_size / 256")
    momentum: float = Field(0.9, ge=0, lt=1, description="Adam's first beta; the second is 0.999")
    weight_decay: float = Field(0.0, ge=0)
    pool: int = Field(10, ge=1, description="prompts to choose from")
    chosen: int = Field(5, ge=1, description="prompts an image gets, at most the pool")
    prompt_length: int = Field(5, ge=1, description="tokens per prompt")
    prompt_range: float = Field(1.0, gt=0, description="new prompts and keys are uniform between -this and this")
    pull: float = Field(0.1, ge=0, description="weight of the term that pulls chosen keys to the image's feature")


class PromptPool(nn.Module):
    """Learned keys (M, D), and a prompt (P, D) for each."""

    def __init__(self, keys: Tensor, prompts: Tensor) -> None:
        super().__init__()
        self.keys, self.prompts = nn.Parameter(keys), nn.Parameter(prompts)

    def tensors(self) -> dict[str, Tensor]:
        """Return a copy that later training cannot reach."""
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}


def select(queries: Tensor, keys: Tensor, prompts: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """Return each image's prompts (B, chosen * P, D), best match first, and how far their keys are from it (B,).

    The keys (M, D) of the greatest cosine with the image's query (B, D) are chosen, and their distances,
    1 - cosine, summed (L2P, equations 4 and 5). Every image chooses for itself: a vote over the batch, as
    some codes take it, would make answers depend on the other images.
    """
    similarity, index = cosine_scores(queries, keys).topk(chosen, dim=-1)
    return prompts[index].flatten(1, 2), (1 - similarity).sum(-1)


@dataclass(frozen=True)
class L2PState(State):
    """The pool and one head."""

    pool: Weights | None = None  #: keys (M, D) and prompts (M, P, D)
    head: Head | None = None


class L2PTraining(GradientTraining[L2PState]):
    """Trains the pool, and the head's rows of the new classes."""

    def __init__(self, start: Start[L2PState], data: ExperienceData) -> None:
        before, settings = start.state, start.settings
        shape = (settings.pool, settings.prompt_length, start.extractor.backbone.width)
        draw, limit = generator(settings.seed, "prompts"), settings.prompt_range
        keys = torch.empty(shape[0], shape[2]).uniform_(-limit, limit, generator=draw)
        prompts = torch.empty(shape).uniform_(-limit, limit, generator=draw)
        self.pool = PromptPool(keys, prompts)
        if before.pool is not None:
            self.pool.load_state_dict(dict(before.pool))
        super().__init__(start, data, before.head, PromptPull(weight=settings.pull), pool=self.pool)
        if not self.new_classes:
            self.epochs = 0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return keys, prompts and head, all at `lr`."""
        return [{"params": [*self.pool.parameters(), *self.head.parameters()], "lr": self.settings.lr}]

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return Adam."""
        betas = (self.settings.momentum, 0.999)
        return torch.optim.Adam(self.parameter_groups(), betas=betas, weight_decay=self.settings.weight_decay)

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a constant rate."""
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def forward(self, images: Tensor) -> Output:
        """Return features, logits, and each image's distance from the keys it chose."""
        with torch.no_grad():
            queries = self.single.features(images)
        prompts, distance = select(queries, self.pool.keys, self.pool.prompts, self.settings.chosen)
        features = self.single.features(self.single.stem(images, prompts))
        return Output(features, self.head(features), {"distance": distance})

    def finish(self, progress: Progress | None = None) -> L2PState:
        return L2PState(**self.progress_counts(), pool=self.pool.tensors(), head=self.frozen_head())


class L2PLearner(IncrementalLearner[L2PState]):
    """A pool of prompts chosen by the frozen feature of each image, and a head on what becomes of them.

    Two passes an image. Memory is M (P + 1) D numbers for the pool, and D + 1 per class. ViTs with rotary
    positions take no prompts. A class that returns trains nothing.
    """

    method = "l2p"
    paper = "Wang et al., CVPR 2022, arXiv 2112.08654"
    summary = "a pool of prompts, chosen for each image by its frozen feature; forgets in pool and head"
    correctable = False
    unportable = "it remembers nothing of its classes but a head"
    unmergeable = "it remembers nothing of its classes but a head, which fits the images of one site"
    probabilities = False
    settings_type = L2PSettings
    state_type = L2PState

    def check(self) -> None:
        """Raise InputError if more prompts are to be chosen than there are."""
        super().check()
        if self.settings.chosen > self.settings.pool:
            raise InputError(f"chosen is {self.settings.chosen}, but the pool has {self.settings.pool} prompts")

    def begin(self, data: ExperienceData) -> L2PTraining:
        return L2PTraining(self.start, data)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        extractor, pool = self.extractor, learned(self.state.pool)
        queries = extractor.frozen_features(images, cache)
        prompts, _ = select(queries, pool["keys"], pool["prompts"], self.settings.chosen)
        features = extractor.features(extractor.stem(images, prompts))
        return Scores(learned(self.state.head)(features).softmax(-1))
