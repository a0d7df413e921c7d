"""The notebooks of the site: they run as they stand, show what they promise, and use nothing but the public names."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "tutorials"
SCRIPTS = sorted(FOLDER.glob("*.py"))
#: what each page shows, as patterns of its outputs
SHOWN = {
    "own_folder": [
        r"1 new class: shim \(12\)",
        r"4 classes in 2 experiences",
        r"new/shim/shim0.png +shim",
        r"(\d) of 8 images answered nut now, 0 before",
        r"\n3 .*corrected 8 images of nut",
    ],
    "avalanche": [r"finetune .* 1\d\.\d\n", r"strata .* [4-9]\d\.\d\n", r"!\[What this cell shows\]"],
    "no_up": [
        r"\ngroup: D4 \(",
        r"with a group: \d+% right, 100% answered alike",
        r"r90 +\d.\d\de-0[78]",
    ],
    "life": [
        r"\['\w+', 'nut'\] \[True, False\]",
        r"ring exact",
        r"[01] of 10 were answered nut, ([6-9]|10) are now",
        r"(\d+) of \1 answers are PyTorch's\nshim\n",
        r"\('bolt', 'nut', 'pin', 'ring'\) [6-9]\d% right",
    ],
}
OPEN = {"continual", "equivariant"}


@pytest.fixture(scope="module")
def tutorials() -> ModuleType:
    """The site's hook that makes pages of them."""
    spec = importlib.util.spec_from_file_location("tutorials", ROOT / "docs" / "site" / "tutorials.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tutorial_is_known_here() -> None:
    assert {script.stem for script in SCRIPTS} == SHOWN.keys()


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_tutorial_runs_and_shows_what_it_promises(script: Path, tutorials: ModuleType) -> None:
    for module in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(module)
    text, pictures = tutorials.page(tutorials.executed(script.read_text(encoding="utf-8")), script.stem)
    for pattern in SHOWN[script.stem]:
        assert re.search(pattern, text), f"{pattern} in\n{text}"
    assert all(data.startswith(b"\x89PNG") and f"({file})" in text for file, data in pictures.items())
    assert len(pictures) == 1
    assert "\x1b" not in text, "plain text, no codes for a terminal"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_tutorial_uses_public_names_alone(script: Path) -> None:
    documented = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("python.md", "edge.md"))
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] in OPEN and name not in OPEN:
                assert re.search(rf"from `?{re.escape(name)}\b|or `{re.escape(name)}`", documented), name
