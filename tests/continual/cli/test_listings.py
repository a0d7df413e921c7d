"""What there is of every kind, found by its place: a kind made here, methods, and their settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.cli import listings
from continual.methods import methods
from continual.registry import load_object
from tests.support.refusals import refused

Equimos = Callable[..., Any]

FRONT = """
"Flavours of ice."
from continual.registry import Registry
FLAVOURS = Registry("flavour", __name__)
"""

PLAIN = """
class Vanilla:
    "Of a bean.\\n\\nAnd more."
    name = "vanilla"
"""

OWN = """
def mint():
    pass
mint.name, mint.summary = "mint", "of a leaf"
"""


@pytest.fixture
def flavours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The registry of a package with one folder deep in it."""
    folder = tmp_path / "parlour" / "cold" / "flavours"
    folder.mkdir(parents=True)
    for place, text in ((folder.parents[1], ""), (folder.parent, ""), (folder, FRONT)):
        (place / "__init__.py").write_text(text)
    (folder / "plain.py").write_text(PLAIN)
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(listings, "PACKAGES", (*listings.PACKAGES, "parlour"))
    yield load_object("parlour.cold.flavours:FLAVOURS")
    for name in [name for name in sys.modules if name.split(".")[0] == "parlour"]:
        del sys.modules[name]


def test_a_kind_is_listed_by_the_place_of_its_registry(equimos: Equimos, flavours: Any, tmp_path: Path) -> None:
    flavours.resolve(f"{tmp_path / 'own.py'}:mint")
    listed = json.loads(equimos("list", "flavours", "--json", "-").stdout)
    assert listed == [
        {"kind": "flavours", "name": "mint", "summary": "of a leaf", "from": f"file {tmp_path / 'own.py'}"},
        {"kind": "flavours", "name": "vanilla", "summary": "Of a bean.", "from": "built in"},
    ]
    lines = equimos("list", "flavours").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["flavours", "mint"], ["flavours", "vanilla"]]
    everything = equimos("list").stdout
    assert all(f" {name} " in everything for name in ("vanilla", *methods()))
    refused(equimos("list", "flavors"), "unknown kind 'flavors'", "did you mean 'flavours'")


def test_a_pipe_is_plain_where_colour_is_forced(equimos: Equimos, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = equimos("methods").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter does
    assert equimos("methods").stdout == plain
    assert "\x1b" not in plain


def test_entry_points_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        module, value, dist = __name__, f"{__name__}:thing", None

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry] if group == "equimos.losses" else [])
    assert listings._origin(test_entry_points_are_named, "continual.losses") == f"entry point: {__name__}:thing"
    assert listings._origin(test_entry_points_are_named, "continual.merging").startswith("file ")


def test_a_methods_own_settings_come_first_and_shared_ones_once(equimos: Equimos) -> None:
    one, every = equimos("methods", "mos").stdout, equimos("methods", "-v").stdout
    assert one.startswith("settings of mos")
    assert one.index("\nalpha ") < one.index("settings that other methods have, too") < one.index("\nbottleneck ")
    assert all(f"\n{name} " in one for name in methods()["mos"].settings_type.model_fields)
    assert "--method mos_reference" in one
    assert "l2p" not in one
    assert every.count("\neval_batch_size ") == 1
    refused(equimos("methods", "moss"), "unknown method 'moss'", "'mos'")
