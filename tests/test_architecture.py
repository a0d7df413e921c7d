"""The floors of the house: imports only go down, one seam a framework, small files, plain repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("continual", "equivariant")

#: Which floor a module of `continual` lives on; imports go to the same floor or below. What is not named
#: here stands around the learner, on floor 2, where no circles are allowed.
FLOORS = {
    **dict.fromkeys(("adapters", "class_statistics", "errors", "losses", "merging", "retrieval"), 0),
    **dict.fromkeys(
        ("calibration", "confusion", "cross_validation", "distributed", "flips", "transfer", "unknowns"), 0
    ),
    **dict.fromkeys(
        (
            "backbones",
            "convnet",
            "data",
            "decoded",
            "frozen",
            "images",
            "preprocessing",
            "seeding",
            "settings",
            "state",
            "symmetry",
            "attention",
            "trunk",
        ),
        1,
    ),
    "methods": 3,
    "consolidation": 3,
    "testing": 3,
    "classifier": 4,
    "avalanche_metrics": 4,
    "avalanche_model": 4,
    "avalanche_plugin": 4,
    "export": 4,
    "serving": 4,
    "bench": 5,
}

#: Where a library may be imported; those that are not named, such as torch, may be everywhere.
SEAMS = {
    "avalanche": ("continual.avalanche_", "continual.bench."),
    "timm": ("continual.attention", "continual.backbones", "continual.trunk", "continual.bench.equivariance.models"),
    "open_clip": ("continual.bench.equivariance.clip",),
    "equivariant": ("continual.symmetry", "continual.bench.symmetry", "continual.bench.equivariance", "equivariant"),
    "continual": ("continual",),
    "safetensors": ("continual.artefact", "continual.backbones", "continual.checkpoints", "equivariant.checkpoint"),
    "matplotlib": ("continual.bench.", "equivariant.report", "equivariant.tuning_result"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), ("continual.export.",)),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client"), ("continual.serving.",)),
    "datasets": ("continual.bench.datasets.hub",),
    **dict.fromkeys(("jinja2", "platformdirs", "rich", "typer"), ("continual.bench.",)),
    "sklearn": ("continual.bench.", "continual.classifier"),
    "pickle": (),
    "dill": (),
    "joblib": (),
    "shelve": (),
}


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


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
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
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
def graph() -> dict[str, set[str]]:
    """What each module of the packages imports when it is loaded."""
    return {module(path): set(imports(path, only_when_loaded=True)) for path in files()}


def loaded(name: str) -> set[str]:
    """The top names of all that is loaded with a module, the fronts of its packages included."""
    seen, todo = set(), {name}
    while todo:
        following = todo.pop()
        seen.add(following)
        todo |= ({following.rpartition(".")[0]} | graph().get(following, set())) - seen - {""}
    return {following.split(".")[0] for following in seen}


def floor(name: str) -> int:
    return FLOORS.get(name.split(".")[1], 2) if "." in name else 0


def test_frameworks_stay_in_their_seams() -> None:
    wrong = [
        f"{module(path)} imports {name}"
        for path in files()
        for name in imports(path)
        if not module(path).startswith(SEAMS.get(name.split(".")[0], PACKAGES))
    ]
    assert not wrong


def test_imports_only_go_down() -> None:
    wrong = [
        f"{own} (floor {floor(own)}) imports {name} (floor {floor(name)})"
        for path in files()
        for name in imports(path)
        if (own := module(path)).startswith("continual.") and name.startswith("continual") and floor(name) > floor(own)
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle of imports: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for following in graph().get(name, ()):
            visit(following, (*trail, name))
        done.add(name)

    for name in graph():
        visit(name, ())


def test_the_front_of_continual_loads_nothing_and_the_learners_no_avalanche() -> None:
    assert loaded("continual") <= sys.stdlib_module_names | {"continual"}
    for name in graph():
        if floor(name) < FLOORS["avalanche_plugin"]:
            assert "avalanche" not in loaded(name), f"import {name} would load Avalanche"


def test_equivariant_is_loaded_with_torch_and_einops_alone() -> None:
    assert loaded("equivariant") - sys.stdlib_module_names <= {"torch", "einops", "equivariant"}
    for name in graph():
        if name.startswith("equivariant"):
            assert loaded(name) - sys.stdlib_module_names <= {"torch", "einops", "equivariant"}


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


def test_the_page_on_architecture_names_every_module_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    stems = {path.stem for path in files()} - {"__init__"}
    unnamed = stems - set(re.findall(r"\w+", page))
    gone = set(re.findall(r"\b(\w+)\.py\b", page)) - stems - {Path(__file__).stem}
    assert (unnamed, gone) == (set(), set())
    assert [line for line in page.splitlines() if len(line) > 120] == []


def test_nothing_is_pickled_or_run_from_text() -> None:
    banned = {"torch.save", "torch.load", "eval", "exec", "np.save", "numpy.save"}
    wrong = [
        f"{module(path)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in banned
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
import equivariant, continual.methods, continual.testing, continual.bench.config
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
