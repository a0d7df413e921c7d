"""What a study rests on: remembered features, recipes, and options as the wrappers declare them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from continual.experiments.equivariance.config import (
    RecipeConfig,
    StageConfig,
    WrapperConfig,
    load_study,
    options_type,
    wrapper_names,
)
from continual.experiments.equivariance.data import split_of
from continual.experiments.equivariance.study import network
from continual.experiments.equivariance.symmetry import measure, remembered, remembers, wrapped
from equivariant.groups import as_group
from equivariant.tuning.recipes import Recipe, Stage
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
