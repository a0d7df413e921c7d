"""Every registered method keeps every law; on a CNN and on several backbones as well if it runs on any."""

from __future__ import annotations

from typing import Any

import pytest

from continual.methods import methods
from continual.testing import LAWS, Case, Law, synthetic_case, tiny_backbones, tiny_convnet

#: Train in a moment; each method takes those that it knows.
QUICK: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "lr": 0.05,
    "bottleneck": 4,
    "alignment_epochs": 2,
    "projection": 50,
}
#: a hundred files of each method, most of which learn
SLOW = {"tensors_of_other_shapes_are_refused": pytest.mark.slow}
EVERY_LAW = [pytest.param(law, marks=SLOW.get(law.__name__, ()), id=law.__name__) for law in LAWS]

#: Without adapters; each method takes those that it knows.
ON_A_CNN: dict[str, Any] = {"epochs": 0, "projection": 50}
OTHERS = {" on a CNN": tiny_convnet, " on two backbones": tiny_backbones}
#: settings under which a method is made of other parts
BY_RIDGE: dict[str, Any] = {**QUICK, "stage_one": "ridge"}
FORMS = {"mos by ridge": BY_RIDGE, "mos by ridge, refined": {**BY_RIDGE, "regressed": "frozen", "within": 0.5}}


@pytest.fixture(
    scope="module",
    params=[
        *methods(),
        *(pytest.param(form, marks=pytest.mark.slow if "refined" in form else ()) for form in FORMS),
        *(
            pytest.param(name + other, marks=() if (name, other) == ("strata", " on a CNN") else pytest.mark.slow)
            for name, kind in methods().items()
            if kind.any_backbone
            for other in OTHERS
        ),
    ],
)
def case(request: pytest.FixtureRequest) -> Case:
    name, _, other = request.param.partition(" ")
    learner = methods()[name]
    given, frozen = (ON_A_CNN, OTHERS[f" {other}"]()) if f" {other}" in OTHERS else (QUICK, None)
    given = FORMS.get(request.param, given)
    return synthetic_case(
        learner, frozen, **{k: v for k, v in given.items() if k in learner.settings_type.model_fields}
    )


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("law", EVERY_LAW)
def test_method_keeps_the_law(case: Case, law: Law) -> None:
    law(case)
