"""The house: what the package may import, and that its own imports only go down."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import equivariant

PACKAGE = Path(equivariant.__file__).parent

#: From the ground up; a module may import those of the floors below its own.
FLOORS = [
    {"errors"},
    {"motions", "axioms", "recipes", "checkpoint"},
    {"groups"},
    {"sampling", "networks", "proxies", "selection", "staged", "surgery"},
    {"actions"},
    {"coordinates", "orbits", "outputs"},
    {"wrapper"},
    {"chosen"},
    {"equitune", "lambda_equitune", "equizero", "canonicaliser", "max_pooling", "pruned_orbit"},
    {"testing"},
    {"report", "evaluation"},
    {"caching", "tuning_result"},
    {"tuning_run"},
    {"tuning"},
]
OUTSIDE = {"torch", "einops"}
LAZY = {"matplotlib", "safetensors"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The modules a file imports when it is loaded, and those it imports later, inside functions."""
    tree = ast.parse(path.read_text())
    names: dict[bool, set[str]] = {True: set(), False: set()}
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names[id(node) in inside] |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "equivariant":
                names[id(node) in inside] |= {f"equivariant.{alias.name}" for alias in node.names}
            else:
                names[id(node) in inside].add(node.module or "")
    return names[False], names[True]


def test_imports_only_go_down() -> None:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    files = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert set(files) <= set(floor), "give every new module its floor"
    for name, path in files.items():
        now, later = imports(path)
        for module in now | later:
            top, _, own = module.partition(".")
            if top == "equivariant":
                assert floor[own] < floor[name], f"{name} (floor {floor[name]}) imports {own} (floor {floor[own]})"
            elif top not in sys.stdlib_module_names:
                assert top in (OUTSIDE if module in now else OUTSIDE | LAZY), f"{name} imports {module}"


def test_groups_know_no_tensors() -> None:
    for name in ("errors", "motions", "axioms", "groups", "recipes"):
        assert not any("torch" in module for module in imports(PACKAGE / f"{name}.py")[0])


def test_importing_the_package_loads_no_other_library_and_sets_nothing() -> None:
    code = (
        "import sys, torch; threads, seed = torch.get_num_threads(), torch.initial_seed()\n"
        "import equivariant\n"
        "assert (torch.get_num_threads(), torch.initial_seed()) == (threads, seed)\n"
        "bad = {'avalanche', 'timm', 'continual', 'torchvision', 'matplotlib', 'safetensors', 'sklearn'}\n"
        "print(sorted(bad & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_public_is_exported_and_documented() -> None:
    for name in equivariant.__all__:
        assert getattr(equivariant, name).__doc__, name
