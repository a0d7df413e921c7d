"""The page "Write a method": its method, its config and its checks run as they stand."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import continual
from continual.methods import METHODS
from continual.registry import Registry
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "write_a_method.md").read_text(encoding="utf-8")
METHOD, CHECK = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
CONFIG = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)[0]


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_method.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(METHODS._added)
    yield tmp_path / "own_method.py"
    METHODS._added = before
    sys.modules.pop("own_method", None)


def test_the_method_keeps_every_law(own_method: Path) -> None:
    exec(compile(CHECK, "write_a_method.md", "exec"), {})


def test_the_method_runs_by_its_config(own_method: Path) -> None:
    from continual.datasets.config import DataConfig, StreamConfig
    from continual.experiments.config import load_config

    text = 'title = "t"\n[data]\nsource = "digits"\n[stream]\nclasses = 5\n[backbone]\n'
    text += 'name = "vit_tiny_patch16_224.augreg_in21k"\n' + CONFIG
    own_method.with_name("c.toml").write_text(text)
    config = load_config(own_method.with_name("c.toml"))
    assert isinstance(config.data, DataConfig)
    assert isinstance(config.stream, StreamConfig)
    assert config.methods["nearest"].make_settings().model_dump()["sharpness"] == 2.0


def test_the_method_is_saved_by_name_and_loads_once_its_code_is_there(own_method: Path, blobs: Any) -> None:
    from continual.testing import tiny_backbone

    name = METHODS.resolve(f"{own_method}:NearestMeanLearner")
    learner = continual.method(name)(tiny_backbone())
    learner.learn(*blobs([0, 1], 3))
    learner.save(own_method.with_name("model"))
    assert continual.load(own_method.with_name("model"), learner.backbone).classes == (0, 1)
    METHODS._added.clear()
    with pytest.raises(continual.EquimosError, match=r"--method own_file.py:MyLearner"):
        continual.load(own_method.with_name("model"), learner.backbone)


def test_the_table_of_kinds_names_every_registry() -> None:
    from continual.cli.listings import kinds

    folders = set(re.findall(r"^\| [\w ]+ \| `[\w/]+/(\w+)/` \|", PAGE, flags=re.MULTILINE))
    assert folders | {"methods", "backbones"} == set(kinds())  # other backbones are timm's
    for folder, group in re.findall(r"^\| [\w ]+ \| `([\w/]+)/` \| .* \| `([\w.]+)` \|", PAGE, flags=re.MULTILINE):
        front = __import__(folder.replace("/", "."), fromlist=["_"])
        groups = {value.group for value in vars(front).values() if isinstance(value, Registry)}
        assert groups <= {group}
