"""Methods are found by name: a file in `methods/`, or an entry point of another package."""

from __future__ import annotations

import pkgutil
import re
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import continual
import continual.methods as registry
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.methods.mos.learner import MOSLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.sklearn import ContinualClassifier


class OwnLearner(SimpleCILLearner):
    """A method of a third party."""

    method = "own"


@pytest.fixture
def _entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("own", f"{__name__}:OwnLearner", "equimos.methods")
    monkeypatch.setattr(entry.__class__, "load", lambda _: OwnLearner)
    entries = lambda group: [entry] if group == "equimos.methods" else []  # noqa: E731
    monkeypatch.setattr("continual.registry.entry_points", entries)
    monkeypatch.setattr(registry.METHODS, "_found", None)
    monkeypatch.setattr(registry.METHODS, "_added", {})


def test_the_methods_of_the_package_are_found() -> None:
    assert {"finetune", "joint", "mos", "simple_cil"} <= registry.methods().keys()
    assert list(registry.methods()) == sorted(registry.methods())
    assert registry.method("mos") is MOSLearner


#: Authors, venue and year, and the number in the arXiv if it is there; bounds have no paper.
PAPER = r"none: .*|\w+( et al\.| and \w+)?, \w+ (19|20)\d\d(, arXiv \d{4}\.\d{5})?"


def test_every_method_says_what_it_is() -> None:
    for name, learner in registry.methods().items():
        assert learner.method == name
        assert re.fullmatch(PAPER, learner.paper), learner.paper
        assert "\n" not in learner.summary
        assert learner.__doc__
        assert issubclass(learner, IncrementalLearner)


@pytest.mark.usefixtures("_entry_point")
def test_a_third_party_registers_through_an_entry_point(backbone: Any, blobs: Any, tmp_path: Any) -> None:
    assert registry.method("own") is OwnLearner
    learner = OwnLearner(backbone)
    learner.learn(*blobs([0], 1))
    learner.save(tmp_path / "model")
    assert type(continual.load(tmp_path / "model", backbone)) is OwnLearner


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown method 'moss': did you mean 'mos'"):
        registry.method("moss")


def test_everything_the_package_names_is_there() -> None:
    for name in continual.__all__:
        assert getattr(continual, name) is not None
    assert set(continual.__all__) <= set(dir(continual))
    with pytest.raises(AttributeError, match="no attribute 'MOSS'"):
        _ = continual.MOSS


def test_no_name_hides_a_module() -> None:
    """`continual.x` would be one or the other, depending on what was imported before; `methods` is both."""
    modules = {module.name for module in pkgutil.iter_modules(continual.__path__)}
    assert modules & set(continual.__all__) == {"methods"}
    assert continual.methods is registry


def test_a_method_and_its_preset_have_a_name_together(backbone: Any, blobs: Any) -> None:
    for name in ("mos_paper", "mos_reference"):
        method, preset = registry.with_preset(name)
        assert (registry.method(method), f"{method}_{preset}") == (MOSLearner, name)
        made = ContinualClassifier(backbone, method=name, settings={"epochs": 0}).fit(*blobs([0, 1], 2)).learner_
        assert made.settings == MOSLearner(backbone, preset=preset, epochs=0).settings
    assert registry.with_preset("simple_cil") == ("simple_cil", None)
    assert registry.with_preset("mos_none") == ("mos_none", None)
    with pytest.raises(InputError, match="'reference', but 'paper' is asked for"):
        registry.with_preset("mos_reference", "paper")


def test_the_recommended_method_is_there_and_can_say_what_it_should(backbone: Any, blobs: Any) -> None:
    learner = ContinualClassifier(backbone).fit(*blobs([0, 1], 4)).learner_
    assert learner.method == registry.RECOMMENDED
    assert learner.predict(blobs([0, 1], 2)[0], false_alarm_rate=0.05).probabilities is not None
