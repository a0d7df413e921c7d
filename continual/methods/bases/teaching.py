"""Unlabelled images in the training of an adapter, weighed as LiST does (Wang et al., NAACL Findings 2022).

A teacher, trained on the labelled images alone, answers for the unlabelled ones; another adapter is trained on both.
An image i counts as far as a step that lessens the labelled loss L lessens its own, l_i: its weight is
max(0, <grad L, grad l_i>), divided by the sum of a batch's. <g, grad l_i> is the derivative of l_i(theta + e g) by e at
0, so that one forward-mode pass gives the weights of a whole batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from continual.adapters.bank import shared
from continual.data.inputs import Label
from continual.data.loaders import SeededItems, collate, label_indices
from continual.learning.extractor import extract
from continual.learning.training import GradientTraining, Progress
from continual.learning.unlabelled import PseudoLabels, UnlabelledUse, not_known
from continual.seeding import generator
from continual.statistics.class_statistics import fit
from continual.uncertainty.gaussians import calibrate, detector_of

#: added to the sum of a batch's weights
SMALL = 1e-6

Losses = Callable[[Mapping[str, Tensor]], Tensor]  #: losses (B,) of images under parameters


def meta_weights(losses: Losses, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Tensor:
    """Return the weights (B,) of images with these `losses`, the labelled loss having these gradients; they sum to 1.

    All are 0 where no image's loss is lessened by a step against the gradients.
    """
    own = ({name: value.detach() for name, value in parameters.items()},)
    # The fused attention has no forward mode, and what torch loads for its own at first use it calls deprecated.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        warnings.filterwarnings("ignore", "`torch.jit.script` is", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script` is", DeprecationWarning)
        along = jvp(losses, own, (dict(gradients),))[1]
    weights = along.clamp(min=0)
    return weights / (weights.sum() + SMALL)


def divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """Return KL(teacher | student) (B,) of probabilities (B, C) and logits (B, C)."""
    return F.kl_div(logits.log_softmax(-1), teacher, reduction="none").sum(-1)


@dataclass
class Taught:
    """The unlabelled images of a training, and what a teacher said of them."""

    images: Any  #: their training view
    pseudo: PseudoLabels  #: over the classes that take part in the loss
    active: Tensor  #: (C,) bool, which these are
    seed: int
    experience: int
    epoch: int = 0
    drawn: int = 0  #: images drawn in this epoch

    def begin(self, epoch: int) -> None:
        """Start an epoch (counted from 0): images are drawn in an order of its own."""
        self.epoch, self.drawn = epoch, 0

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next images (B, 3, H, W), the teacher's answers (B, C') and how sure they are (B,)."""
        rows = self.pseudo.used.nonzero()[:, 0].cpu()
        rounds, start = divmod(self.drawn, len(rows))
        draw = generator(self.seed, "unlabelled", self.experience, self.epoch, rounds)
        own = rows[torch.randperm(len(rows), generator=draw)[start : start + size]]
        self.drawn += len(own)
        items = SeededItems(self.images, self.seed, self.experience)
        # Other augmentations than those of labelled images of the same index.
        images, _ = collate([items[-1 - self.epoch, place] for place in own.tolist()])
        places = own.to(self.pseudo.weights.device)
        return images, self.pseudo.probabilities[places], self.pseudo.weights[places]

    def loss(self, training: Any, labelled: Tensor) -> Tensor:
        """Return what a batch of unlabelled images adds to the loss of one of labelled images.

        In the first epoch an image weighs as much as the teacher is sure, then as the gradients say.
        """
        images, teacher, sure = self.batch(training.settings.batch_size)
        losses, parameters = self._losses(training, images.to(training.device), teacher)
        if self.epoch == 0:
            weights = sure / (sure.sum() + SMALL)
        else:
            found = torch.autograd.grad(labelled, [*parameters.values()], retain_graph=True, allow_unused=True)
            gradients = {
                name: torch.zeros_like(value) if own is None else own
                for (name, value), own in zip(parameters.items(), found, strict=True)
            }
            weights = meta_weights(losses, parameters, gradients)
        return weights.to(labelled) @ losses(parameters)

    def _losses(self, training: Any, images: Tensor, teacher: Tensor) -> tuple[Losses, dict[str, Tensor]]:
        """Return the losses as a function of what is trained, without dropout, and the live parameters by name."""
        adapter, head, extractor = training.adapter, training.head, training.single
        fixed = dict(adapter.named_buffers())
        with torch.no_grad():
            stem = extractor.stem(images, reads=adapter.kind.reads)

        def losses(parameters: Mapping[str, Tensor]) -> Tensor:
            own = {name.removeprefix("adapter."): p for name, p in parameters.items() if name.startswith("adapter.")}
            features = extractor.features(stem, shared(adapter.kind, {**fixed, **own}))
            rest = {name.removeprefix("head."): p for name, p in parameters.items() if name.startswith("head.")}
            return divergence(teacher, functional_call(head, rest, (features,))[:, self.active])

        live = {f"adapter.{name}": p for name, p in adapter.named_parameters()}
        return losses, live | {f"head.{name}": p for name, p in head.named_parameters()}


def taught_by(teacher: GradientTraining[Any], progress: Progress | None = None) -> Taught:
    """Return the unlabelled images as a training that is over answers for them, without those that it does not know.

    Known is what is as like the labelled images' classes as these are: by Gaussians of their features under the
    teacher's adapter. Images of classes that do not take part in the loss are unknown, too. Raises InputError where
    that cannot be known.
    """
    settings, data = teacher.settings, teacher.data
    assert data.unlabelled is not None
    served = teacher.adapter.bind()  # type: ignore[attr-defined]

    def read(images: Tensor, _: Sequence[Label]) -> Sequence[Tensor]:
        return [teacher.single.features(images, served)]

    size, device = settings.eval_batch_size, teacher.device
    (own,), labels = extract(data.evaluation, read, size, device, progress, teacher.workers)
    (new,), _ = extract(data.unlabelled.evaluation, read, size, device, progress, teacher.workers)
    targets = label_indices(labels, teacher.index).to(device)
    statistics = [fit(own[targets == target], "low_rank") for target in targets[teacher.active[targets]].unique()]
    known = detector_of(statistics, calibrate(statistics, generator(settings.seed, "unlabelled", 0)))
    if known is None:
        raise not_known("a training")
    with torch.no_grad():
        probabilities = teacher.head(new)[:, teacher.active].softmax(-1)
    return Taught(
        data.unlabelled.training, PseudoLabels.of(probabilities, known.p_value(new)), teacher.active, settings.seed,
        teacher.before.updates,
    )  # fmt: skip


def use_of(taught: Taught, classes: Sequence[Label]) -> UnlabelledUse:
    """Count what is used; raises InputError for images that are unlike all classes."""
    own = [label for label, active in zip(classes, taught.active.tolist(), strict=True) if active]
    return UnlabelledUse.of(taught.pseudo, own)
