"""What a study rests on: remembered features, recipes, and options as the wrappers declare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from continual import files
from continual.experiments.equivariance.config import (
    RecipeConfig,
    StageConfig,
    WrapperConfig,
    load_study,
    options_type,
    wrapper_names,
)
from continual.experiments.equivariance.data import split_of
from continual.experiments.equivariance.files import load_tuned, save_tuned
from continual.experiments.equivariance.study import _Study, linear_head, network, on_all_views
from continual.experiments.equivariance.symmetry import measure, remembered, remembers, wrapped
from equivariant.checks.evaluation import score
from equivariant.groups import as_group
from equivariant.orbits import orbit
from equivariant.parts.proxies import margin, max_probability
from equivariant.tuning.recipes import Recipe, Stage
from equivariant.wrappers import find_wrapper
from tests.support.small_studies import write_folders, write_study


@pytest.fixture
def study(tmp_path: Path, weights: Path) -> Path:
    return write_study(tmp_path / "tiny.toml", write_folders(tmp_path), weights)


def test_remembered_views_give_the_numbers_of_images(study: Path) -> None:
    config = load_study(study)
    split = split_of(config.data, 0)
    base = network(config.model, split, 0, torch.device("cpu"), lambda *_: None)
    assert base.head is not None
    with torch.no_grad():
        base.head.weight.normal_(generator=torch.Generator().manual_seed(0))  # one that errs
    group, test = as_group("D4"), split.test.prepared(base.preprocessing)
    views = remembered(base.features, group, test, 4)
    models = {label: wrapped(row, base.features, base.head, group) for label, row in config.rows.items()}
    assert {label for label, model in models.items() if not remembers(model, group)} == {"pruned, k=1"}
    for model in models.values():
        if remembers(model, group):
            assert measure(model, group, views) == measure(model, group, test)
        assert not remembers(model, as_group("C8"))


def test_the_config_knows_the_trainer(study: Path) -> None:
    stage, recipe = StageConfig(train="head"), RecipeConfig(stages=[StageConfig(train="head")])
    assert vars(Stage(**stage.model_dump())) == vars(Stage("head"))
    made = Recipe((Stage("head"),), **recipe.model_dump(exclude={"stages"}))
    assert made == Recipe((Stage("head"),))


def test_options_are_those_that_the_wrappers_declare() -> None:
    defaults = {name: WrapperConfig(wrapper=name).options for name in wrapper_names()}
    assert defaults == {
        "plain": {},
        "anytime": {"passes": 1.5, "proxy": "margin", "sure": 0.8, "blocks": 0},
        "canonicaliser": {},
        "equitune": {},
        "equizero": {"proxy": "entropy"},
        "lambda": {"positive": "exp"},
        "max": {},
        "pruned": {"blocks": 2, "keep": 1},
    }
    assert WrapperConfig(wrapper="pruned", keep=3, chunk=2).options == {"blocks": 2, "keep": 3}
    assert all(field.description for name in defaults for field in options_type(name).model_fields.values())
    for wrong in ({"wrapper": "max", "keep": 1}, {"wrapper": "lambda", "positive": "none"}, {"wrapper": "plan"}):
        with pytest.raises(ValueError, match=r"option of 'pruned', not of 'max'|'exp' or 'softplus'|'plain'"):
            WrapperConfig(**wrong)


def test_a_head_is_fitted_to_all_views_of_images_unless_they_are_answered_as_they_are(study: Path) -> None:
    config = load_study(study, ["rows.max.head_views='one'", "rows.anytime.passes=2"])
    assert [on_all_views(row) for row in config.rows.values()] == [False, False, True, True, True, True, True]
    made, group = _Study(config, as_group("C4"), 0, lambda *_: None), as_group("C4")
    inputs = torch.stack([image for image, _ in made.split.train.prepared(made.base.preprocessing)])
    features = torch.stack([made.base.features(view) for view in orbit(group, inputs)], 1)
    targets = np.array(made.split.train.classes)
    for found, seen in ((made.base, features[:, :1]), (made.viewed, features)):
        expected = linear_head(seen.flatten(0, 1).numpy(), np.repeat(targets, seen.shape[1]), 3)
        assert found.head is not None
        torch.testing.assert_close(found.head.weight, expected.weight)
    (head,) = [module for module in made._wrapped(config.rows["max"], made._network(config.rows["max"])).modules()
               if isinstance(module, torch.nn.Linear) and module.out_features == 3]  # fmt: skip
    assert head is made.base.head
    held_out = made.split.validation.prepared(made.base.preprocessing)
    wrapper = find_wrapper(made._wrapped(config.rows["anytime"], made.viewed))
    assert wrapper is not None
    made._meet_passes(wrapper)
    assert score(wrapper, held_out, 8).passes <= 2


def test_a_file_from_before_the_margin_stops_as_it_did(study: Path, tmp_path: Path) -> None:
    config, group = load_study(study, ["rows.anytime.passes=2"]), as_group("C4")
    path = tmp_path / "model.safetensors"
    made, row = _Study(config, group, 0, lambda *_: None), config.rows["anytime"]
    save_tuned(path, made._wrapped(row, made.viewed), row, group, made.viewed, ["a", "b", "c"])

    def proxy() -> Any:
        whole = load_tuned(path, torch.device("cpu")).whole
        assert whole is not None
        return vars(find_wrapper(whole))["proxy"]

    assert proxy() is margin
    weights, metadata = files.fetch(path)
    values = json.loads(metadata["equivariant"])
    assert values["wrapper"].pop("proxy") == "margin"
    files.store(path, weights, {"equivariant": json.dumps(values)})
    assert proxy() is max_probability
