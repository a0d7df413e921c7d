"""Every method keeps the laws on a second device, which is made of Python: what mixes devices fails without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from continual.methods import methods
from continual.testing import LAWS, Case, Law, synthetic_case
from continual.testing.cases import tiny_backbone
from tests.conformance.test_laws import QUICK
from tests.continual.test_gpu import ON_A_GPU
from tests.support.second_device import DEVICE, There, second_device

#: Autocast knows no such device, and torch's own `skip_init` draws numbers on it that it throws away.
THERE = [name for name in ON_A_GPU if name not in ("bfloat16_works", "random_state_is_left_alone")]


def quick(name: str, **more: Any) -> dict[str, Any]:
    known = methods()[name].settings_type.model_fields
    return {key: value for key, value in {**QUICK, **more}.items() if key in known}


def test_devices_do_not_mix() -> None:
    with second_device() as device:
        there, draw = torch.ones(3, device=device), torch.Generator(device).manual_seed(1)
        with pytest.raises(RuntimeError, match="to be on the same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="a generator of the other device"):
            torch.randn(3, generator=draw)
        with pytest.raises(RuntimeError, match="a generator of the other device"):
            torch.randn(3, generator=torch.Generator(), device=device)
        with pytest.raises(RuntimeError):
            there.numpy()
        drawn = torch.randn(3, generator=draw.manual_seed(1), device=device)
        assert isinstance(there * 2 + torch.tensor(1.0), There)
        assert (drawn.device, there[[0, 2]].sum().item(), there.cpu().tolist()) == (DEVICE, 2, [1, 1, 1])
    assert torch.equal(drawn.here, torch.randn(3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "ridge" else pytest.mark.slow) for name in methods()]
)
def test_learning_there_is_learning_here(name: str) -> None:
    here, backbone = synthetic_case(methods()[name], **quick(name)), tiny_backbone()
    with second_device() as device:
        there = synthetic_case(methods()[name], backbone, device=device, **quick(name))
        found = there.learned.predict(there.images)
    expected = here.learned.predict(here.images)
    assert found.scores.device == expected.scores.device
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    assert found.labels == expected.labels


@pytest.mark.slow
@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("law", [law for law in LAWS if law.__name__ in THERE], ids=lambda law: law.__name__)
def test_method_keeps_the_law_there(name: str, law: Law) -> None:
    backbone = tiny_backbone()
    with second_device() as device:
        case: Case = synthetic_case(methods()[name], backbone, device=device, **quick(name))
        law(case)
