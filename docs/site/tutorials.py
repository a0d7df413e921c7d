"""A hook of the site: the notebooks of docs/tutorials, executed, as pages with their outputs.

A notebook is a percent script, which `jupytext --to ipynb` and editors open as one. Its working folder is empty, and
deleted after. With EQUIMOS_EXECUTE=false a site is built without executing them: the pages then have no outputs.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
SHELL, TOGETHER = "%%bash\n", "exec 2>&1\n"  #: what a command says of its progress stands before its result
SECONDS = 300  #: for one cell


def notebooks() -> list[Path]:
    """Return the scripts, in the order of their names."""
    return sorted(FOLDER.glob("*.py"))


def read(path: Path) -> Any:
    """Return a script as a notebook without outputs."""
    import jupytext

    return jupytext.read(path, fmt="py:percent")


@cache
def executed(text: str) -> Any:
    """Return the notebook of a script's text with its outputs; raises CellExecutionError for a cell that fails."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.reads(text, fmt="py:percent")
    for cell in notebook.cells:
        if cell.source.startswith(SHELL):
            cell.source = cell.source.replace(SHELL, SHELL + TOGETHER, 1)
    with TemporaryDirectory() as folder, TemporaryDirectory() as commands:
        equimos = Path(commands) / "equimos"  # of this checkout, wherever another one is installed
        equimos.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m continual "$@"\n', encoding="utf-8")
        equimos.chmod(0o755)
        changed = {
            "PATH": os.pathsep.join([commands, os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER.parents[1]), os.environ.get("PYTHONPATH")])),
            "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, of widgets that a page has not
        }
        place = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources=place, coalesce_streams=True
        )
        client.execute(env={**os.environ, **changed})
    return notebook


def page(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the file names that the text links to."""
    pictures: dict[str, bytes] = {}
    lines = [part for cell in notebook.cells for part in _cell(cell, name, pictures)]
    lines.append(f"This page is a notebook: [{name}.py]({name}.py) (`jupytext --to ipynb {name}.py`).")
    return "\n\n".join(lines) + "\n", pictures


def _cell(cell: Any, name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield cell.source
        return
    shell = cell.source.startswith(SHELL)
    yield _fenced(cell.source.removeprefix(SHELL).removeprefix(TOGETHER), "bash" if shell else "python")
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "image/png" in data:
            file = f"{name}_{len(pictures)}.png"
            pictures[file] = base64.b64decode(data["image/png"])
            yield f"![What this cell shows]({file})"
        elif text := output.get("text") or data.get("text/plain"):
            yield _fenced(text.rstrip(), "text")


def _fenced(text: str, kind: str) -> str:
    return f"```{kind}\n{text}\n```"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site."""
    from mkdocs.structure.files import File

    for path in notebooks():
        text = path.read_text(encoding="utf-8")
        found, pictures = page(executed(text) if config.extra["execute"] else read(path), path.stem)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=found))
        for file, data in pictures.items():
            files.append(File.generated(config, f"tutorials/{file}", content=data))
    return files
