"""What to train, for how long, and how: a recipe of stages, each with its own parameters and optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from equivariant.errors import InputError

Train = Literal["upright", "weights", "fit_head", "head", "everything"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Stage:
    """Train one part of a model for at most `steps` optimizer steps.

    `train` is "weights" (λ, or another network that weighs the elements), "head" (all outside the backbone but the
    weights) or "everything". "fit_head" fits a linear head on every view of every training image by itself, in no
    steps: a mean over the orbit then keeps the upright accuracy. "upright" trains the weights without labels: to find,
    among all views of a training image, the one as it was given; it shall be upright then. What is not trained stays in
    evaluation mode.
    """

    train: Train
    steps: int = 1000
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9  #: of SGD
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.train not in get_args(Train) or self.optimizer not in get_args(Optimizer):
            raise InputError(
                f"train={self.train!r}, optimizer={self.optimizer!r} is not allowed: train is one of "
                f"{get_args(Train)}, optimizer one of {get_args(Optimizer)}"
            )
        if self.steps < 1 or not self.learning_rate > 0:
            raise InputError(f"steps={self.steps} must be at least 1, and learning_rate={self.learning_rate} above 0")


@dataclass(frozen=True)
class Recipe:
    """Stages one after another; each ends at its best validation accuracy, among those with the fewest views finished.

    - `validate_every` steps the validation split is scored (and a checkpoint written, if there is a folder); after
      `patience` scores without a better one the stage stops early.
    - `turn`: transform every training image by a random element of the group. To an invariant model it makes no
      difference, to a plain one it is augmentation.
    - `cache`: what is frozen of the backbone, all of it or the first modules of an `nn.Sequential`, is run once over
      the orbit of every image: the same answers, in a small part of the time, for N·|G| of its outputs in memory.
    - `batch_statistics`: let batch norm use, and learn, the statistics of each batch. Off, it keeps pretraining's and
      only its scale and shift train: a few small batches of other images would spoil them.
    """

    stages: tuple[Stage, ...]
    batch_size: int = 64
    validate_every: int = 50
    patience: int = 8
    turn: bool = True
    cache: bool = True
    batch_statistics: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise InputError("a recipe needs at least one stage: Recipe((Stage('weights'),))")
        if min(self.batch_size, self.validate_every, self.patience) < 1:
            raise InputError("batch_size, validate_every and patience must be at least 1")


_LAMBDA = Stage("weights", learning_rate=0.33, optimizer="sgd")
_EVERYTHING = Stage("everything", steps=4000, learning_rate=5e-6, optimizer="sgd")

#: By name. The two "published" ones are the defaults of the λ-equitune paper's scripts for CLIP on CIFAR-100:
#: SGD with momentum 0.9, 0.33 for λ and 5e-6 for the network; the batch size is ours.
RECIPES = {
    "fit_head": Recipe((Stage("fit_head"),)),
    "lambda_only": Recipe((Stage("weights"),)),
    "lambda_then_everything": Recipe((Stage("weights"), Stage("everything", learning_rate=1e-5))),
    "head_only": Recipe((Stage("head"),)),
    "upright_only": Recipe((Stage("upright"),)),
    "published_lambda_only": Recipe((_LAMBDA,)),
    "published_lambda_then_everything": Recipe((_LAMBDA, _EVERYTHING)),
}


def as_recipe(recipe: Recipe | str) -> Recipe:
    """Return the recipe itself, or the one by that name; raises InputError for any other."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe in RECIPES:
        return RECIPES[recipe]
    raise InputError(f"unknown recipe {recipe!r}: choose {', '.join(map(repr, RECIPES))}, or give a Recipe of your own")
