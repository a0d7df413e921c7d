"""Every kind of adapter, in every method that trains adapters, keeps every law of learners."""

from __future__ import annotations

import pytest

from continual import adapters
from continual.methods import methods
from continual.testing import Case, Law, synthetic_case
from tests.conformance.test_laws import EVERY_LAW, QUICK

#: settings of a kind that fit the tiny backbone
SMALL: dict[str, dict[str, int]] = {"compacter": {"width": 8}, "ladder": {"reduction": 4}}

KINDS = [name for name in adapters.KINDS.all() if name != "bottleneck"]  # which `test_laws` has
#: Which cover most ways adapters are used: merged, or one for each subspace; in attention, or after all blocks.
FIRST = [("mos", "lora"), ("mos", "ladder"), ("ease", "ladder")]
TRAINING = [name for name, kind in methods().items() if "adapter" in kind.settings_type.model_fields]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((method, kind), marks=() if (method, kind) in FIRST else pytest.mark.slow)
        for method in TRAINING
        for kind in KINDS
    ],
    ids="-".join,
)
def case(request: pytest.FixtureRequest) -> Case:
    method, kind = request.param
    learner = methods()[method]
    given = {name: value for name, value in QUICK.items() if name in learner.settings_type.model_fields}
    return synthetic_case(learner, None, **given, adapter=kind, adapter_args=SMALL.get(kind, {}))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("law", EVERY_LAW)
def test_method_keeps_the_law_with_the_kind(case: Case, law: Law) -> None:
    law(case)
