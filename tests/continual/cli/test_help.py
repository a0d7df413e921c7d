"""The help of every command, as it reads on a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from continual.cli.app import app


def every(command: Any, context: Any) -> Iterator[Any]:
    """The contexts of a command and of all below it."""
    yield context
    for name, part in getattr(command, "commands", {}).items():
        yield from every(part, typer.Context(part, parent=context, info_name=name))


ROOT = typer.main.get_command(app)
TOP = typer.Context(ROOT, info_name="equimos", **ROOT.context_settings)
CONTEXTS = {context.command_path: context for context in every(ROOT, TOP)}


@pytest.mark.parametrize("path", CONTEXTS)
def test_help_cuts_nothing_on_80_columns(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    context = CONTEXTS[path]
    typer.echo(context.get_help())
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80
    assert not [line for line in lines if re.search(r"(^|\s)--?\w\S*-$", line)], (
        "an option's name goes on in a new line"
    )
    for parameter in context.command.get_params(context):
        for name, what in filter(None, [parameter.get_help_record(context)]):  # hidden ones have none
            assert any(line.startswith(name) for line in lines), name
            assert _joined(what) in _joined(shown), what  # with its default
    for name, part in getattr(context.command, "commands", {}).items():
        first = _joined(part.help.split("\n\n")[0].split(". ")[0])
        assert name + first.removesuffix(".") in _joined(shown), name


def _joined(text: str) -> str:
    """A text without its spaces and line ends: a line may end wherever a word or a part of one does."""
    return "".join(text.split())
