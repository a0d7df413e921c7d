"""Score a classifier on untransformed and on transformed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from equivariant.actions import Action
from equivariant.checks.equivariance import input_action
from equivariant.checks.passes import counted
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group
from equivariant.orbits import act_each, random_elements
from equivariant.parts.surgery import device_of, evaluating
from equivariant.wrappers.base import WeightedWrapper

#: Images (N, C, H, W) with labels (N,) int64, or a data set of (image, label) pairs.
Data: TypeAlias = "tuple[Tensor, Tensor] | Dataset[Any]"
Tick = Callable[[int, int], None]  #: tick(images done, images in all)


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in [0, 1]."""

    upright: float  #: on the images as they are
    turned: float  #: on the same images, each transformed by a random element
    weights: dict[str, float] = field(default_factory=dict)  #: mean weight of each element on the images as they are
    passes: float = 1.0  #: of the backbone, for an image


def evaluate(
    model: nn.Module,
    data: Data,
    group: FiniteGroup | str,
    *,
    input: Action | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Evaluation:
    """Score a model that returns class scores (B, K), on its own device; `seed` decides how images are transformed.

    If the model is a wrapper that weighs the elements, their mean weights come with it. Raises InputError if it holds
    several wrappers, whose passes are none of one model.
    """
    group, action = as_group(group), input or input_action(model)
    generator = torch.Generator().manual_seed(seed)
    upright = turned = count = 0
    weights = torch.zeros(group.order, dtype=torch.float64)
    with evaluating(model), counted(model) as passes:
        for images, labels in batches(data, device_of(model), batch_size):
            transformed = act_each(group, random_elements(group, len(images), generator), images, action)
            if isinstance(model, WeightedWrapper) and model.group == group:
                scores, shares = model.answer(images)
                weights += shares.sum(1).double().cpu()
            else:
                scores = model(images)
            upright += int((scores.argmax(1) == labels).sum())
            turned += int((model(transformed).argmax(1) == labels).sum())
            count += len(images)
    mean = dict(zip(group.names, (weights / count).tolist(), strict=True)) if weights.any() else {}
    return Evaluation(upright / count, turned / count, mean, passes.per_image(2 * count))


@dataclass(frozen=True)
class Scored:
    """How a model does on labelled images."""

    accuracy: float  #: in [0, 1]
    loss: float  #: mean cross-entropy
    passes: float  #: of the backbone, for an image
    finished: float  #: views of an image that went through all of the backbone


def score(model: nn.Module, data: Data, batch_size: int) -> Scored:
    """Score a model on its own device."""
    right, loss, count = 0, 0.0, 0
    with evaluating(model), counted(model) as passes:
        for images, labels in batches(data, device_of(model), batch_size):
            scores = model(images)
            right += int((scores.argmax(1) == labels).sum())
            loss += float(functional.cross_entropy(scores.float(), labels, reduction="sum"))
            count += len(images)
    return Scored(right / count, loss / count, passes.per_image(count), passes.finished(count))


def as_dataset(data: Data, name: str = "data") -> Dataset[Any]:
    """Return the data as a data set; raises InputError if it is empty or its tensors do not fit each other."""
    if isinstance(data, Dataset):
        dataset: Dataset[Any] = data
    elif isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        images, labels = data
        if len(images) != len(labels) or labels.ndim != 1 or labels.is_floating_point():
            raise InputError(
                f"{name} has images {tuple(images.shape)} and labels {labels.dtype} {tuple(labels.shape)}: give "
                f"(N, C, H, W) and integers (N,)"
            )
        dataset = TensorDataset(images, labels)
    else:
        raise InputError(f"{name} must be (images, labels) or a data set of such pairs, not {type(data).__name__}")
    if size_of(dataset) == 0:
        raise InputError(f"{name} is empty: give at least one image")
    return dataset


def batches(
    data: Data,
    device: torch.device,
    batch_size: int = 64,
    order: list[list[int]] | None = None,
    tick: Tick | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels) on a device, all or the batches of indices in `order`; `tick` hears when each is done."""
    dataset, done = as_dataset(data), 0
    options: dict[str, Any] = {"batch_size": batch_size} if order is None else {"batch_sampler": order}
    for images, labels in DataLoader(dataset, **options):
        yield images.to(device), torch.as_tensor(labels).to(device)
        done += len(images)
        if tick is not None:
            tick(done, size_of(dataset))


def size_of(dataset: Dataset[Any]) -> int:
    """Return the number of items."""
    return len(dataset)  # type: ignore[arg-type]
