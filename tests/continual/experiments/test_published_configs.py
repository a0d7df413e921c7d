"""Every published setting has a config, and each runs on a small data set in the layout that people have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continual.backbones.loading import Backbone
from continual.experiments import run
from continual.experiments.config import load_config, load_runs
from continual.experiments.published import protocols
from continual.experiments.run import run_config, streams
from continual.metrics.accuracy import accuracy
from tests.conftest import ROOT
from tests.support import dataset_fakes as fakes

#: config -> classes of each experience
SIZES = {
    "cifar100/mos_b0_inc5": [5] * 20,
    "cifar100/mos_b0_inc10": [10] * 10,
    "cub200/mos_b0_inc10": [10] * 20,
    "imagenet_r/mos_b0_inc20": [20] * 10,
    "imagenet_r/mos_b100_inc50": [100, 50, 50],
    "imagenet_a/mos_b0_inc20": [20] * 10,
    "objectnet/mos_b0_inc10": [10] * 20,
    "objectnet/mos_b0_inc20": [20] * 10,
    "omnibenchmark/mos_b0_inc30": [30] * 10,
    "vtab/mos_b0_inc10": [10] * 5,
}
#: Which a quick run tries: of equal experiences, with a base, with an order of its own.
QUICK = ("cifar100/mos_b0_inc10", "imagenet_r/mos_b100_inc50", "vtab/mos_b0_inc10")


def path(name: str) -> Path:
    return ROOT / "configs" / f"{name}.toml"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SIZES]
)
def test_a_published_setting_is_dry_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: Backbone
) -> None:
    data = name.split("/")[0]
    root = fakes.fake(data, tmp_path / "images", monkeypatch)
    config = load_config(path(name), [f"data.root={json.dumps(str(root))}", "data.exact=false"])
    stream = streams(config)[1993]
    assert [len(e.classes) for e in stream.experiences] == SIZES[name]
    order = np.random.RandomState(1993).permutation(sum(SIZES[name]))
    if name.startswith("vtab"):
        order = np.arange(50)
    assert stream.class_order == tuple(fakes.names(len(order))[i] for i in order)
    monkeypatch.setattr(run, "load_backbone", lambda *_, **__: backbone)
    (cell,) = run_config(config, only=["simple_cil"])
    assert len(accuracy(cell)) == len(SIZES[name])


def test_every_published_protocol_has_a_config() -> None:
    loaded = {name: load_config(path(name)) for name in SIZES}
    having = {(config.data.source, tuple(SIZES[name])) for name, config in loaded.items()}
    for protocol in protocols():
        assert (protocol.data, (protocol.increment,) * (protocol.classes // protocol.increment)) in having


#: parts of configs/published.toml -> the configs of one data set whose settings they take
PARTS = {
    name.split("/")[0]: name
    for name in SIZES
    if name not in ("cifar100/mos_b0_inc10", "imagenet_r/mos_b100_inc50", "objectnet/mos_b0_inc20")
}


def test_the_published_table_takes_the_settings_of_each_set() -> None:
    table = load_runs(path("published"))
    assert table.keys() == PARTS.keys()
    for part, name in PARTS.items():
        mine, its = table[part], load_config(path(name))
        assert (mine.data, mine.stream, mine.backbone) == (its.data, its.stream, its.backbone)
        shared = mine.methods.keys() & its.methods.keys()
        assert shared == {"mos", "ease", "slca", "ranpac", "aper", "simple_cil"}
        assert all(mine.methods[method] == its.methods[method] for method in shared)
        assert mine.methods.keys() - shared == {"strata", "layup", "fecam", "tuna"}


@pytest.mark.slow
def test_the_published_table_runs(
    equimos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: Backbone
) -> None:
    for data in PARTS:
        fakes.fake(data, tmp_path / "home" / data, monkeypatch)
    monkeypatch.setenv("EQUIMOS_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(run, "load_backbone", lambda *_, **__: backbone)
    only = [word for method in ("fecam", "layup") for word in ("--only", method)]
    result = equimos("run", path("published"), "--out", tmp_path / "run", *only, "data.exact=false")
    assert result.exit_code == 0, result.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == PARTS.keys()


@pytest.mark.parametrize("name", SIZES)
def test_the_header_says_what_is_expected_and_how_to_run_it(name: str) -> None:
    text = path(name).read_text(encoding="utf-8")
    header = re.match(r"(#.*\n)+", text)
    assert header is not None
    assert f"equimos run configs/{name}.toml" in header[0]
    config: Any = load_config(path(name))
    for protocol in protocols():
        same = [protocol.increment] * (protocol.classes // protocol.increment) == SIZES[name]
        for figure in protocol.figures if same and protocol.data == config.data.source else ():
            if figure.method in ("mos", "aper", "simple_cil"):
                assert f"{100 * figure.average:.2f}" in header[0], figure
                assert f"{100 * figure.final:.2f}" in header[0], figure
