"""Run a study: for every seed and row, wrap the network, tune it if it has a recipe, and measure it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from continual import files
from continual.data.inputs import as_images
from continual.datasets.catalogue import catalogue
from continual.datasets.streams import Experience
from continual.errors import InputError
from continual.experiments.equivariance import report
from continual.experiments.equivariance.config import PLAIN, ModelConfig, RowConfig, StudyConfig, WrapperConfig
from continual.experiments.equivariance.data import Part, Split, noise, score_indices, split_of
from continual.experiments.equivariance.files import save_tuned
from continual.experiments.equivariance.models import Classifier, load_classifier
from continual.experiments.equivariance.report import Results, Row
from continual.experiments.equivariance.symmetry import Measures, Measuring, tuned_parts, wrapped
from continual.experiments.pretraining import pretrained_on
from continual.learning.extractor import Progress
from continual.learning.model_file import versions
from continual.seeding import seeded
from continual.symmetry.views import group_named, refusals
from equivariant.groups import FiniteGroup
from equivariant.orbits import orbit
from equivariant.tuning.recipes import RECIPES, Recipe, Stage
from equivariant.tuning.tune import meet_passes, trained_by, tune
from equivariant.wrappers import find_wrapper
from equivariant.wrappers.anytime_orbit import AnytimeOrbit
from equivariant.wrappers.base import OrbitWrapper


def run_study(config: StudyConfig, out: Path, progress: Progress) -> Results:
    """Run what is not yet in the folder `out`, and return all rows; results and tuned models go there.

    A folder holds one study; rows that are there are not run again, and an interrupted tuning resumes. Raises
    InputError for a folder of another study.
    """
    group = group_named(config.group)
    _claim(out, config)
    rows: list[Row] = []
    for seed in config.seeds:
        study: _Study | None = None
        for label, row in config.rows.items():
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in label)
            place = out / "rows" / f"{name}-{seed}.json"
            if place.is_file():
                measures = Measures(**json.loads(place.read_text()))
            else:
                study = study or _Study(config, group, seed, progress)
                measures = study.run(label, row, out / "models" / place.stem)
                place.parent.mkdir(exist_ok=True)
                files.write_json(place, asdict(measures))
            rows.append(Row(label, row.wrapper, row.recipe, seed, measures))
    results = Results(config.title, group.name, rows)
    report.write(results, out)
    return results


def tried(config: StudyConfig) -> Iterator[tuple[str, str, str, str | None]]:
    """Try a study on random weights: make every row and give it an image; nothing is downloaded, trained or written.

    Yields its label, wrapper, recipe, and what would be trained.
    """
    group = group_named(config.group)
    if config.data.source in catalogue():
        count = catalogue()[config.data.source].classes
        split = noise(min(count, config.data.classes or count))
    else:
        split = split_of(config.data, config.seeds[0])
    found = load_classifier(config.model, split.classes, pretrained=False)
    image = split.test.prepared(found.preprocessing)[0][0][None]
    if config.model.head == "fit":
        with torch.no_grad():
            width = found.features(image).shape[1]
        head = nn.Linear(width, len(split.classes))
        found = replace(found, head=head, classes=split.classes)
    score_indices(found, split.classes)
    assert found.head is not None
    for label, row in config.rows.items():
        model = wrapped(row, found.features, found.head, group).eval()
        stages = make_recipe(config, row, 0).stages if row.recipe else ()
        with torch.no_grad(), refusals():
            model(image)
            chosen = [trained_by(stage, tuned_parts(model, found.head), model) for stage in stages]
        sizes = [f"{stage.train} {sum(p.numel() for p in c):,}" for stage, c in zip(stages, chosen, strict=True)]
        yield label, row.wrapper, row.recipe or "none: zero-shot", ", then ".join(sizes) or None


class _Study:
    """What the rows of one seed share: the images, the network, and its features of the test images."""

    def __init__(self, config: StudyConfig, group: FiniteGroup, seed: int, progress: Progress) -> None:
        self.config, self.group, self.seed, self.progress = config, group, seed, progress
        self.device = torch.device(config.device)
        self.split = split_of(config.data, seed)
        self.base = self.viewed = network(config.model, self.split, seed, self.device, progress)
        if config.model.head == "fit" and any(on_all_views(row) for row in config.rows.values()):
            given = (self.split.train, self.split.classes, self.device, progress, group)
            self.viewed = with_fitted_head(self.base, *given)
        self.indices = score_indices(self.base, self.split.classes)
        test = self.split.test.prepared(self.base.preprocessing, self.indices)
        self.measure = Measuring(self.base.features, group, test, config.batch_size, progress)

    def run(self, label: str, row: RowConfig, folder: Path) -> Measures:
        """Return what a row measures; a row with a recipe leaves its model in the folder."""
        place = f"{label}, seed {self.seed}"
        if row.recipe:
            recipe = make_recipe(self.config, row, self.seed)
            frozen = all(stage.train != "everything" for stage in recipe.stages)
            model = self._tuned(place, row, recipe, folder)
        else:
            frozen, model = True, self._wrapped(row, self._network(row))
            self._meet_passes(find_wrapper(model))
        measures = self.measure(model, f"{place}: test images", frozen=frozen)
        self.progress(place, 1, 1, {"upright": measures.upright, "turned": measures.turned})
        return measures

    def _network(self, row: RowConfig) -> Classifier:
        """Return the network with the head that a row begins with."""
        return self.viewed if on_all_views(row) else self.base

    def _meet_passes(self, wrapper: OrbitWrapper | None) -> None:
        """Choose when an any-time orbit stops by the held-out images, as `tune` does."""
        if isinstance(wrapper, AnytimeOrbit):
            held_out = self.split.validation.prepared(self.base.preprocessing, self.indices)
            with refusals():
                meet_passes(wrapper, held_out, self.config.batch_size)

    def _wrapped(self, row: RowConfig, found: Classifier) -> nn.Module:
        with seeded(self.seed, "wrapper"):
            return wrapped(row, found.features, found.head, self.group).to(self.device).eval()

    def _tuned(self, place: str, row: RowConfig, recipe: Recipe, folder: Path) -> nn.Module:
        found, split = copy.deepcopy(self._network(row)), self.split
        model = self._wrapped(row, found)
        assert found.head is not None
        with refusals():
            result = tune(
                model,
                split.train.prepared(found.preprocessing, self.indices),
                split.validation.prepared(found.preprocessing, self.indices),
                recipe,
                group=self.group,
                parts=tuned_parts(model, found.head),
                folder=folder,
                progress=lambda what, *rest: self.progress(f"{place}: {what}", *rest),
            )
        names = [""] * len(self.base.classes or split.classes)
        for i, name in zip(self.indices, split.classes, strict=True):
            names[i] = name
        save_tuned(folder / "model.safetensors", model, row, self.group, found, self.base.classes or names)
        result.save(folder / "course.json")
        result.plot(folder / "course.png")
        return model


def network(config: ModelConfig, split: Split, seed: int, device: torch.device, progress: Progress) -> Classifier:
    """Return the network of a config on a device, with a head for the images' classes if it asks for one."""
    if config.pretrain is not None:
        found = _trained_from_scratch(config, split, seed, progress)
    else:
        found = load_classifier(config, split.classes)
    found.features.to(device)
    if config.head == "fit":
        found = with_fitted_head(found, split.train, split.classes, device, progress)
    if found.head is not None:
        found.head.requires_grad_(False).to(device)
    return found


def with_fitted_head(
    found: Classifier,
    images: Part,
    classes: tuple[str, ...],
    device: torch.device,
    progress: Progress,
    group: FiniteGroup | None = None,
) -> Classifier:
    """Return a network with a linear head fitted to its features of images as they are, or of all their views."""
    data, rows = images.prepared(found.preprocessing), []
    views = 1 if group is None else group.order
    with torch.no_grad(), refusals():
        for batch, _ in DataLoader(data, 64):
            seen = batch[None] if group is None else orbit(group, batch)
            rows.append(torch.stack([found.features(view.to(device)).float().cpu() for view in seen], 1))
            progress("features of training images", sum(map(len, rows)), len(images.classes), {})
    head = linear_head(torch.cat(rows).flatten(0, 1).numpy(), np.repeat(images.classes, views), len(classes))
    return replace(found, head=head.to(device).requires_grad_(False), classes=classes)


def on_all_views(row: WrapperConfig) -> bool:
    """Whether a fitted head is one for all views of images, and not only for images as they are."""
    asked = row.head_views if isinstance(row, RowConfig) else None
    return asked == "all" if asked else row.wrapper != PLAIN


def linear_head(features: np.ndarray, labels: np.ndarray, classes: int) -> nn.Linear:
    """Fit a logistic regression on standardised features (N, D), and fold the scaling into it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.01, max_iter=2000).fit(scaler.transform(features), labels)
    weight = fitted.coef_ / scaler.scale_
    bias = fitted.intercept_ - weight @ scaler.mean_
    if classes == 2:  # scikit-learn has one row for two classes: the score of the second over the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = nn.Linear(features.shape[1], classes).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(bias))
    return head


def make_recipe(config: StudyConfig, row: RowConfig, seed: int) -> Recipe:
    """Return a row's recipe: one of the config's own, or a built-in one."""
    assert row.recipe is not None
    if (own := config.recipes.get(row.recipe)) is None:
        return replace(RECIPES[row.recipe], seed=seed)
    stages = tuple(Stage(**stage.model_dump()) for stage in own.stages)
    return Recipe(stages, seed=seed, **own.model_dump(exclude={"stages"}))


def _trained_from_scratch(config: ModelConfig, split: Split, seed: int, progress: Progress) -> Classifier:
    classes = [split.classes[c] for c in split.train.classes]
    experience = Experience(as_images(split.train.images), list(classes), [], [], split.classes)
    made = pretrained_on(experience, config, seed, progress)
    assert config.name is not None
    return Classifier(config.name, made.frozen.network, None, made.preprocessing, None, config.args)


def _claim(out: Path, config: StudyConfig) -> None:
    """Make the folder, or check that it is this study's."""
    file = out / "study.json"
    values = config.model_dump(mode="json", exclude={"device", "title"})
    for label, row in config.rows.items():
        values["rows"][label] |= row.options
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty and not the folder of a study: choose another --out")
        files.write_json(file, {"config": values, "versions": versions()})
        return
    try:
        there = json.loads(file.read_text())["config"]
    except (json.JSONDecodeError, KeyError) as error:
        raise InputError(f"cannot use {out} as the folder of a study: {error}") from error
    changed = [key for key, value in values.items() if not _same(there.get(key), value, within=key == "rows")]
    if changed:
        was = there.get(changed[0])
        said = f"{changed[0]} is {was!r} there" if isinstance(was, str) else f"another {changed[0]}"
        raise InputError(f"{out} holds a study with other settings ({said}): choose another --out, or delete it")


def _same(there: Any, now: Any, *, within: bool) -> bool:
    """Compare settings; `within` rows, an option that a row no longer has does not count: all rows once had all."""
    if not (within and isinstance(there, dict) and there.keys() == now.keys()):
        return bool(there == now)
    return all({**there[label], **row} == there[label] for label, row in now.items())
