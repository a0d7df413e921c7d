"""How long commands take to start, in processor seconds, beside importing torch and timm: the smallest of some rounds.

    OMP_NUM_THREADS=1 python benchmarks/startup.py

The model is a tiny ViT with random weights, made here, so that nothing but starting counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import arguments
from measuring import table

import continual
from continual.testing import coloured_squares, synthetic_case

IMPORTS = "import torch, timm"
COMMAND = "from continual.cli.app import main; main()"


def processor_seconds(code: str, *words: str) -> float:
    """Return what a new Python takes for some code, user and system time together."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return round(spent, 3)


def sides(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return what is started, by its name in the table: code and words of the command line."""
    import torchvision.io

    model, image = folder / "model.safetensors", folder / "image.png"
    case = synthetic_case(continual.methods.method("strata"))
    case.learned.save(model, embed_backbone=True)
    torchvision.io.write_png(coloured_squares([0], 1)[0][0], str(image))
    commands = {
        "--help": ["--help"],
        "info": ["info", "--model", str(model)],
        "history": ["history", "--model", str(model)],
        "show quickstart": ["show", "quickstart"],
        "methods": ["methods"],
        "predict, one image": ["predict", str(image), "--model", str(model)],
    }
    others = {IMPORTS: (IMPORTS,), "import torch": ("import torch",), "import torchvision": ("import torchvision",)}
    return {**others, **{f"equimos {name}": (COMMAND, *words) for name, words in commands.items()}}


def main() -> None:
    """Print one line for each command."""
    parser = arguments.parser(__doc__, rounds={"type": int, "default": 3})
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        given = sides(Path(folder))
        taken: dict[str, float] = dict.fromkeys(given, float("inf"))
        for _ in range(rounds):
            for name, (code, *words) in given.items():
                taken[name] = min(taken[name], processor_seconds(code, *words))
    lines = [[name, f"{spent:.2f}", f"{spent / taken[IMPORTS]:.2f}"] for name, spent in taken.items()]
    print(table(["started", "processor seconds", f"ratio to `{IMPORTS}`"], lines))


if __name__ == "__main__":
    main()
