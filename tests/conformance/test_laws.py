"""Every registered method keeps every law."""

from __future__ import annotations

from typing import Any

import pytest

from continual.methods import methods
from continual.testing import LAWS, Case, Law, synthetic_case

#: Train in a moment; each method takes those that it knows.
QUICK: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "lr": 0.05,
    "bottleneck": 4,
    "alignment_epochs": 2,
    "projection": 50,
}


@pytest.fixture(scope="module", params=sorted(methods()))
def case(request: pytest.FixtureRequest) -> Case:
    learner = methods()[request.param]
    return synthetic_case(learner, **{k: v for k, v in QUICK.items() if k in learner.settings_type.model_fields})


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_method_keeps_the_law(case: Case, law: Law) -> None:
    law(case)
