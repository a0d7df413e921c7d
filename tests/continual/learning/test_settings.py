"""Settings: presets, and problems that are all named at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from continual.errors import EquimosError, InputError, nearest
from continual.learning.settings import AdapterSettings, Settings, make
from continual.methods import methods
from continual.methods.mos.settings import MOSSettings
from continual.methods.strata import StrataSettings


def test_the_defaults_are_the_papers() -> None:
    made = make(MOSSettings)
    assert (made.epochs, made.batch_size, made.lr, made.weight_decay) == (20, 48, 0.03, 5e-4)
    assert (made.bottleneck, made.adapter_scale, made.adapter_dropout) == (16, 0.1, 0.1)
    assert (made.head_lr_ratio, made.momentum) == (0.1, 0.9)
    assert (made.alignment_epochs, made.alignment_lr, made.retrieval_rounds) == (30, 0.005, 4)


def test_single_values_come_before_the_preset() -> None:
    reference = make(MOSSettings, "reference")
    assert (reference.merge, reference.consolidate, reference.feature_contrast) == ("per_forward", "mean", 0.1)
    paper = make(MOSSettings, "paper", alpha=0.3)
    assert (paper.merge, paper.consolidate, paper.feature_contrast, paper.alpha) == ("step", None, 0.0, 0.3)


def test_every_preset_of_every_method_is_valid() -> None:
    for learner in methods().values():
        for preset in learner.settings_type.presets:
            make(learner.settings_type, preset)


def test_every_field_survives_json() -> None:
    for learner in methods().values():
        made = make(learner.settings_type)
        assert learner.settings_type.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch': did you mean 'epochs'?"),
        ({"lr": 0}, r"lr: .* \(got 0\)"),
        ({"lr": float("inf")}, "lr: .*finite"),
        ({"lr": float("nan")}, "lr: "),
        ({"lr": "fast"}, r"lr: .*\(got 'fast'\)"),
        ({"epochs": 2.5}, r"epochs: .*\(got 2.5\)"),
        ({"precision": "float16"}, "precision: .*'float32' or 'bfloat16'"),
        ({"epochs": -1, "momentum": 1}, "epochs: .*; momentum: "),
    ],
)
def test_every_problem_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(AdapterSettings, **values)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(InputError, match="unknown preset 'papr': did you mean 'paper'?"):
        make(MOSSettings, "papr")
    with pytest.raises(InputError, match="there are none"):
        make(Settings, "paper")


@pytest.mark.parametrize(
    ("kind", "old", "new", "value"),
    [(StrataSettings, "strength", "penalty", 0.5), (Settings, "turned_training", "transformed_training", False)],
)
def test_names_of_before_are_understood_with_a_warning(kind: type[Settings], old: str, new: str, value: Any) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        made = make(kind, **{old: value})
    assert made == make(kind, **{new: value})


def test_settings_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValidationError):
        make(Settings).seed = 3


def test_every_error_of_bad_input_is_a_value_error() -> None:
    assert issubclass(InputError, EquimosError)
    assert issubclass(EquimosError, ValueError)
    assert nearest("x", []) == "allowed: "
