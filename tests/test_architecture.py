"""The architecture: folders are floors, imports only go down, one seam a framework, small files, plain repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: What imports what: a folder may import those above it in its list, and itself. A file that lies flat in a package is
#: on its ground floor, below all folders, unless it is named here as if it were a folder.
FLOORS = {
    "continual": (
        "data", "adapters", "merging", "losses", "selection", "metrics", "statistics", "uncertainty", "backbones",
        "symmetry", "learning", "resizing", "methods", "testing", "export", "explaining", "sklearn",
        "datasets", "avalanche", "lifecycle", "serving", "experiments", "cli", "__main__",
    ),
    "equivariant": ("parts", "wrappers", "detection", "checks", "tuning"),
}  # fmt: skip

#: Where a library may be imported; those that are not named, such as torch, may be everywhere.
SEAMS = {
    "avalanche": ("continual.avalanche", "continual.experiments"),
    "timm": ("continual.backbones", "continual.experiments.equivariance.models"),
    "open_clip": ("continual.backbones.clip",),
    "equivariant": ("continual.symmetry", "continual.experiments", "equivariant"),
    "continual": ("continual",),
    "safetensors": ("continual", "equivariant.tuning"),
    "matplotlib": ("continual.experiments", "equivariant.checks", "equivariant.tuning"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), ("continual.export",)),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client"), ("continual.serving",)),
    "datasets": ("continual.datasets",),
    **dict.fromkeys(
        ("jinja2", "rich"),
        ("continual.console", "continual.cli", "continual.experiments", "continual.datasets"),
    ),
    "platformdirs": ("continual.datasets", "continual.learning.feature_store"),
    **dict.fromkeys(("wandb", "mlflow", "tensorboard", "optuna"), ("continual.experiments",)),
    "typer": ("continual.cli",),
    "ray": ("continual.experiments.on_ray",),
    "submitit": ("continual.experiments.launching",),
    "sklearn": (
        "continual.sklearn",
        "continual.selection",
        "continual.uncertainty",
        "continual.datasets",
        "continual.experiments",
    ),
    **dict.fromkeys(("pickle", "dill", "joblib", "shelve"), ()),
}


def files() -> list[Path]:
    return [path for package in FLOORS for path in sorted((ROOT / package).rglob("*.py"))]


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def imports(path: Path, *, only_when_loaded: bool = False) -> Iterator[str]:
    """Yield the modules a file imports, wherever in it; with `only_when_loaded`, those its own import needs."""
    todo: list[ast.AST] = [tree(path)]
    while todo:
        node = todo.pop()
        if only_when_loaded and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if only_when_loaded and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name, not a relative one"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if is_module(full) else str(node.module)
        todo.extend(ast.iter_child_nodes(node))


@cache
def graph(*, only_when_loaded: bool = True) -> dict[str, set[str]]:
    """What each module of the packages imports."""
    return {module(path): set(imports(path, only_when_loaded=only_when_loaded)) for path in files()}


def loaded(name: str) -> set[str]:
    """The top names of all that is loaded with a module, the fronts of its packages included."""
    seen, todo = set(), {name}
    while todo:
        following = todo.pop()
        seen.add(following)
        todo |= ({following.rpartition(".")[0]} | graph().get(following, set())) - seen - {""}
    return {following.split(".")[0] for following in seen}


def floor(name: str) -> int:
    """The number of a module's floor; a package's own front is above all."""
    package, _, rest = name.partition(".")
    folders = FLOORS[package]
    own = rest.split(".")[0]
    return len(folders) + 1 if not rest else folders.index(own) + 1 if own in folders else 0


def test_every_folder_has_a_floor() -> None:
    for package, folders in FLOORS.items():
        there = {path.name for path in (ROOT / package).iterdir() if path.is_dir() and any(path.glob("*.py"))}
        assert there <= set(folders), "give a new folder its place in FLOORS"


def test_frameworks_stay_in_their_seams() -> None:
    wrong = [
        f"{module(path)} imports {name}"
        for path in files()
        for name in imports(path)
        if not f"{module(path)}.".startswith(tuple(f"{seam}." for seam in SEAMS.get(name.split(".")[0], tuple(FLOORS))))
    ]
    assert not wrong


def test_imports_only_go_down() -> None:
    wrong = [
        f"{own} imports {name}"
        for own, names in graph(only_when_loaded=False).items()
        for name in names
        if own.partition(".")[0] == name.partition(".")[0] and "." in own and "." in name and floor(name) > floor(own)
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    """Not even inside a function, or for types alone."""
    every, done = graph(only_when_loaded=False), set[str]()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            around = tuple(takewhile(lambda other: other != name, reversed(trail)))[::-1]
            raise AssertionError(f"a circle of imports: {' -> '.join((name, *around, name))}")
        if name in done:
            return
        for following in every.get(name, ()):
            visit(following, (*trail, name))
        done.add(name)

    for name in every:
        # A front hands on the names of its leaves; leaves do not import it (see below).
        if "." in name:
            visit(name, ())


def test_the_front_of_continual_and_the_command_load_nothing() -> None:
    ours = sys.stdlib_module_names | {"continual"}
    assert loaded("continual") <= ours
    assert loaded("continual.cli.app") <= ours | {"typer"}


def test_learners_load_no_avalanche() -> None:
    for name in graph():
        if name.startswith("continual.") and floor(name) < floor("continual.avalanche"):
            assert "avalanche" not in loaded(name), f"import {name} would load Avalanche"


def test_equivariant_is_loaded_with_torch_and_einops_alone() -> None:
    for name in graph():
        if name.startswith("equivariant"):
            assert loaded(name) - sys.stdlib_module_names <= {"torch", "einops", "equivariant"}, name


def test_a_package_does_not_import_its_own_front() -> None:
    """Leaves are imported, not `continual` or `equivariant` themselves; the version alone lives there."""
    for path in files():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module == module(path).split(".")[0]:
                leaves = [alias.name for alias in node.names if not is_module(f"{node.module}.{alias.name}")]
                assert leaves in ([], ["__version__"]), f"{module(path)} imports {leaves} from its own package"


def test_a_file_is_a_room_not_a_hall() -> None:
    lengths = {module(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    halls = {name: lines for name, lines in lengths.items() if lines > 300}
    assert not halls, "take a noun out of them"


def test_the_page_on_architecture_names_every_folder_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {name for names in FLOORS.values() for name in names} - {"sklearn", "__main__"}
    assert {name for name in folders if f"{name}/" not in page} == set()
    assert (
        set(re.findall(r"^ +(\w+)/", page, re.MULTILINE))
        - folders
        - {path.name for path in ROOT.rglob("continual/*/*")}
        == set()
    )
    assert [line for line in page.splitlines() if len(line) > 120] == []


def test_nothing_is_pickled_or_run_from_text() -> None:
    banned = {"torch.save", "torch.load", "eval", "exec", "np.save", "numpy.save"}
    wrong = [
        f"{module(path)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in banned
        if "weights_only=True" not in ast.unparse(node)  # torch then runs nothing
    ]
    assert not wrong


def test_every_module_and_public_name_says_what_it_is() -> None:
    silent = []
    for path in files():
        public = [n for n in tree(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]
        silent += [f"{module(path)}.{node.name}" for node in public if not ast.get_docstring(node)]
        if tree(path).body and not ast.get_docstring(tree(path)):
            silent.append(module(path))
    assert not silent


@pytest.mark.slow
def test_importing_changes_nothing() -> None:
    """In a fresh process: no folder, seed, generator, thread count or default is touched."""
    program = """
import os, random, numpy, torch
def state():
    return (os.getcwd(), dict(os.environ), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled(),
            torch.get_default_dtype(), random.getstate(), str(numpy.random.get_state(legacy=False)),
            torch.random.get_rng_state().tolist())
import timm, torchvision  # what these do is theirs
before = state()
import equivariant, continual.methods, continual.testing, continual.experiments.config
continual.methods.methods()
changed = [i for i, (a, b) in enumerate(zip(before, state())) if a != b]
assert not changed, changed
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_repository_names_no_machine() -> None:
    """No absolute path of a machine, no index to install from, in any tracked file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt|workspace)/\w|\b[A-Z]:\\Users\\")
    hosts = re.compile(r"--(?:extra-)?index-url|PIP_INDEX_URL|://(?:localhost|[\w.-]+\.(?:internal|local|corp|lan))\b")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        for pattern in (paths, hosts):
            found = pattern.search(text)
            assert found is None, f"{name} names {found and found.group()!r}"
