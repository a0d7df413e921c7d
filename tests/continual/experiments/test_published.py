"""Published figures: found by data set and protocol, with what makes them differ from a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from continual import methods
from continual.datasets.catalogue import catalogue
from continual.experiments import published
from continual.experiments.config import load_config
from tests.conftest import ROOT


def test_figures_are_shares_with_a_source() -> None:
    found = [figure for protocol in published.protocols() for figure in protocol.figures]
    assert len(found) > 50
    for figure in found:
        assert 0.4 < figure.final < 1
        assert 0.4 < figure.average < 1
        assert figure.source.text


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/*/mos_b0_*.toml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_the_configs_quote_the_same_figures(path: Path) -> None:
    config, text = load_config(path), path.read_text()
    increment, classes = config.stream.classes, catalogue()[config.data.source].classes
    assert isinstance(increment, int)
    protocol = published.find(config.data.source, [increment] * (classes // increment))
    if protocol is None:
        assert not re.search(r"mos \d\d\.\d", text)
        return
    found = re.findall(r"(\w+) (\d\d\.\d+) ?/ ?(\d\d\.\d+)", text)
    quoted = {name.lower(): (float(average), float(final)) for name, average, final in found}
    assert quoted
    for name in ("mos", "ease", "aper", "simple_cil"):
        figure = protocol.figure(name)
        if figure is not None and name in quoted:
            assert quoted[name] == pytest.approx((100 * figure.average, 100 * figure.final))


def test_names_are_those_of_our_methods() -> None:
    ours = set(methods.methods())
    named = {figure.method for protocol in published.protocols() for figure in protocol.figures}
    assert {"mos", "simple_cil", "aper", "ranpac"} <= named & ours


def test_data_sets_are_those_that_can_be_prepared() -> None:
    for protocol in published.protocols():
        assert catalogue()[protocol.data].classes == protocol.classes


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
