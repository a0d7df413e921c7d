"""The runner as one file that needs nothing of this package: it and what it imports from here, one after the other."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

RUNNER, LEARNER = "continual.export.onnx_runner", "continual.export.onnx_learner"


def source(module: str = RUNNER) -> str:
    """Return the text of the stand-alone runner, or of the one that learns."""
    runner, *rest = [_file(name) for name in reversed(_needed(module))]
    tree = ast.parse(runner)
    about = ast.get_docstring(tree, clean=False)
    parts = [*(_body(text, runs=False) for text in reversed(rest)), _body(runner)]
    return f'"""{about}"""\n\nfrom __future__ import annotations\n\n' + "\n\n".join(parts)


def _needed(name: str, found: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the modules of this package that one needs, itself last, each after what it needs itself."""
    for node in ast.parse(_file(name)).body:
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("continual.")
            and node.module not in found
        ):
            found = _needed(str(node.module), found)
    return (*found, name) if name not in found else found


def _file(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def _body(text: str, runs: bool = True) -> str:
    """Return a module's lines but its docstring, the imports that have no place in one file, and what a program runs.

    The last is kept of the one module that `runs`.
    """
    left_out = set[int]()
    for number, node in enumerate(ast.parse(text).body):
        docstring = number == 0 and isinstance(node, ast.Expr)
        ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("continual", "__future__")
        program = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if docstring or ours or (program and not runs):
            left_out |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = text.splitlines()
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in left_out).strip() + "\n"
