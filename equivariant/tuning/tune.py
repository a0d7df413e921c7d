"""Fine-tune a wrapped classifier: its head on all views, λ alone, λ and then everything, …"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from equivariant.actions import Images
from equivariant.checks.evaluation import Data, as_dataset, batches, evaluate
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group
from equivariant.parts.surgery import device_of
from equivariant.tuning.heads import head_of
from equivariant.tuning.orbit_cache import CachedOrbit, cache_views, frozen_modules, on_caches
from equivariant.tuning.recipes import Recipe, Stage, as_recipe
from equivariant.tuning.result import TuningResult
from equivariant.tuning.run import Progress, Run, random_turns
from equivariant.wrappers import find_wrapper
from equivariant.wrappers.anytime_orbit import AnytimeOrbit
from equivariant.wrappers.base import OrbitWrapper

Parts: TypeAlias = Mapping[str, Sequence[nn.Parameter]]


def tune(
    model: nn.Module,
    train: Data,
    validation: Data,
    recipe: Recipe | str = "fit_head",
    *,
    group: FiniteGroup | str | None = None,
    test: Data | None = None,
    parts: Parts | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """Train a classifier in place, by a recipe, on its own device; return how it went.

    - `model` holds one wrapper (or is it) and returns class scores (B, K). A plain model needs `group` and `parts`,
      e.g. `parts={"head": list(head.parameters())}`.
    - `train`, `validation`, `test`: (images (N, C, H, W), labels (N,)) or data sets of such pairs. Each stage ends at
      its best validation accuracy, which may be where it began, unless every view was finished there, as none scored
      better, and fewer are later. `test` is scored before and after. A stage "upright" does not look at labels.
      An `AnytimeOrbit` with `passes` gets its limit from the validation images at the end.
    - `folder`: a checkpoint is kept there, from which an interrupted tuning resumes, with the same result to the bit.
      Raises InputError if it is of another recipe or model.
    - `progress` is called after every step.

    Parameters that a stage does not train are frozen while it runs. Whatever happens, the parameters' `requires_grad`,
    the modules' modes and the random state are afterwards as they were. Raises InputError if the data or parts do not
    fit, or if the loss is not finite. A stage that is interrupted, or fails, leaves the model at its best so far.
    """
    recipe, wrapper = as_recipe(recipe), find_wrapper(model)
    if wrapper is not None and group is None:
        group = wrapper.group
    if group is None:
        raise InputError("the model holds no wrapper, so say which group: group='C4'")
    group = as_group(group)
    action = wrapper.input if wrapper else Images()
    parts = parameter_parts(model) if parts is None else parts
    trained = [trained_by(stage, parts, model) for stage in recipe.stages]
    train, validation = as_dataset(train, "train"), as_dataset(validation, "validation")
    score = partial(evaluate, model, group=group, input=action, batch_size=recipe.batch_size)
    before = score(as_dataset(test, "test")) if test is not None else None
    run = Run(model, group, recipe, Path(folder) / "checkpoint.safetensors" if folder else None, progress)
    device = device_of(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _restoring(model):
        run.resume()
        while run.stage < len(recipe.stages):
            parameters = trained[run.stage]
            _freeze_all_but(model, parameters, recipe.batch_statistics)
            with _cached(model, wrapper, recipe, train, validation) as (training, held_out, images):
                if recipe.stages[run.stage].train == "fit_head":
                    run.fit(head_of(model, parameters), training, held_out, action if images else CachedOrbit())
                    continue
                turn = random_turns(group, action) if images and recipe.turn else None
                run.train(parameters, training, held_out, turn)
    if isinstance(wrapper, AnytimeOrbit):
        meet_passes(wrapper, validation, recipe.batch_size)
    return TuningResult(group.name, run.history, before, score(test) if test is not None else None)


def meet_passes(wrapper: AnytimeOrbit, data: Data, batch_size: int) -> None:
    """Choose by images when an orbit stops, if it is to take so many passes; warn where that cannot be, as scores tie.

    It then finishes every view, as before.
    """
    if wrapper.passes is None:
        return
    try:
        wrapper.fit_limit(images for images, _ in batches(data, device_of(wrapper), batch_size))
    except InputError as error:
        cure = "train its scores first, by a stage 'upright' or 'weights', or ask for more passes"
        warnings.warn(f"{error}. Every view is finished: {cure}", stacklevel=3)


def parameter_parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters by part: "weights" of the wrapper, its "backbone", and the "head", all others."""
    wrapper = find_wrapper(model)
    weights = wrapper.weight_parameters() if wrapper else []
    backbone = list(wrapper.model.parameters()) if wrapper else []
    taken = {id(p) for p in (*weights, *backbone)}
    return {"weights": weights, "backbone": backbone, "head": [p for p in model.parameters() if id(p) not in taken]}


def trained_by(stage: Stage, parts: Parts, model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters a stage trains; raises InputError, with the cure, if there are none."""
    part = {"upright": "weights", "fit_head": "head"}.get(stage.train, stage.train)
    chosen = list(model.parameters()) if part == "everything" else list(parts.get(part, ()))
    if not chosen:
        cure = {
            "weights": "this model has no λ or score network: use LambdaEquitune, AnytimeOrbit or Canonicaliser",
            "head": "its head is inside the backbone: take it off with take_off_head(model) and wrap the features, or "
            "say parts={'head': …}",
            "everything": "the model has no parameters",
        }
        raise InputError(f"there is nothing to train in stage {stage.train!r}: {cure[part]}")
    if stage.train == "fit_head":
        head_of(model, chosen)
    return chosen


@contextmanager
def _restoring(model: nn.Module) -> Iterator[None]:
    """Put back every parameter's requires_grad and every module's mode."""
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)
        for module, training in modes.items():
            module.training = training


def _freeze_all_but(model: nn.Module, chosen: list[nn.Parameter], batch_statistics: bool) -> None:
    """Let the chosen parameters train; put modules that hold only others, and batch norm, in evaluation mode."""
    numbers = {id(parameter) for parameter in chosen}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in numbers)
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        frozen = own and not any(parameter.requires_grad for parameter in own)
        if frozen or (isinstance(module, _BatchNorm) and not batch_statistics):
            module.eval()


@contextmanager
def _cached(
    model: nn.Module, wrapper: OrbitWrapper | None, recipe: Recipe, train: Data, validation: Data
) -> Iterator[tuple[Data, Data, bool]]:
    """Yield the data to train and to validate on, and whether they are still images or what is frozen makes of them."""
    first = model[0] if isinstance(model, nn.Sequential) else model
    kept = recipe.cache and wrapper is first and wrapper.through_model
    if wrapper is None or not kept or frozen_modules(wrapper.model) == 0:
        yield train, validation, True
        return
    caches = [cache_views(wrapper, data, recipe.batch_size) for data in (train, validation)]
    with on_caches(wrapper):
        yield caches[0], caches[1], False
