"""Published figures: found by data set and protocol, with what makes them differ from a run."""

from __future__ import annotations

from typing import Any

import pytest

from continual import methods
from continual.bench import published
from continual.bench.config import load_config
from tests.conftest import ROOT


def test_figures_are_shares_with_a_source() -> None:
    found = [figure for protocol in published.protocols() for figure in protocol.figures]
    assert len(found) > 50
    for figure in found:
        assert 0.4 < figure.final < 1
        assert 0.4 < figure.average < 1
        assert figure.source.text


@pytest.mark.parametrize(
    ("path", "figures"),
    [("cifar100/mos_b0_inc5", (93.30, 89.25)), ("imagenet_r/mos_b0_inc20", (82.96, 77.93))],
)
def test_the_configs_quote_the_same_figures(path: str, figures: tuple[float, float]) -> None:
    name = path.split("/")[0]
    sizes = {"cifar100": [5] * 20, "imagenet_r": [20] * 10}[name]
    protocol = published.find(name, sizes)
    assert protocol is not None
    figure = protocol.figure("mos")
    assert figure is not None
    assert (100 * figure.average, 100 * figure.final) == pytest.approx(figures)
    text = (ROOT / "configs" / f"{path}.toml").read_text()
    assert all(f"{x:.2f}" in text for x in figures)


def test_names_are_those_of_our_methods() -> None:
    ours = set(methods.methods())
    named = {figure.method for protocol in published.protocols() for figure in protocol.figures}
    assert {"mos", "simple_cil", "aper", "ranpac"} <= named & ours


def test_another_cut_of_the_same_data_has_no_figures() -> None:
    assert published.find("cifar100", [5] * 20) is not None
    for data, sizes in (("cifar100", [10] * 10), ("cifar100", [50, *[5] * 10]), ("digits", [5] * 20)):
        assert published.find(data, sizes) is None
    inc10, inc20 = (published.find("objectnet", [n] * (200 // n)) for n in (10, 20))
    assert inc10 is not None
    assert inc20 is not None
    assert inc10.figures != inc20.figures


def test_conditions_that_differ_are_named() -> None:
    config: dict[str, Any] = load_config(ROOT / "configs/cifar100/mos_b0_inc5.toml").model_dump(mode="json")
    protocol = published.find("cifar100", [5] * 20)
    assert protocol is not None
    source = protocol.figures[0].source
    assert published.differences(config, source) == []
    config["seeds"] = [1993, 1994]
    config["stream"]["per_class"] = 20
    config["backbone"] = {"name": "vit_small_patch14_dinov2", "args": {"img_size": 98}}
    text = "; ".join(published.differences(config, source))
    for part in ("vit_small_patch14_dinov2 (img_size=98)", "normalised", "20 training images", "seeds 1993, 1994"):
        assert part in text
