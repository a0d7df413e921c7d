"""Every script is loaded and says what it takes; options of the same name are the shared ones."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path

import arguments
import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [path for path in FILES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_script_says_what_it_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    assert ("--help" in said.getvalue()) == (path in SCRIPTS)


def test_shared_options_are_changed_where_a_script_says_so() -> None:
    made = arguments.parser("", "seeds", "per_class", size={"default": 70}, per_month={"type": int, "default": 3})
    asked = made.parse_args(["--seeds", "1", "2", "--per-month", "5"])
    assert vars(asked) == {"seeds": [1, 2], "per_class": 20, "size": 70, "per_month": 5}
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        arguments.parser("", "out").parse_args([])
