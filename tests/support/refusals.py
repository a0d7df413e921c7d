"""What every refusal of the command line has in common."""

from __future__ import annotations

from typing import Any


def refused(result: Any, *words: object) -> str:
    """Check that a command failed as it should, saying all of `words`; return its one line."""
    line: str = result.stderr.splitlines()[-1]
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert [text for text in result.stderr.splitlines() if text.startswith("error: ")] == [line]
    assert "Traceback" not in result.stderr
    for word in words:
        assert str(word) in line
    return line
