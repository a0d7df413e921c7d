"""A study of wrappers that runs in seconds."""

from __future__ import annotations

from pathlib import Path

from tests.continual.conftest import write_pictures

ROWS = """
[recipes.quick]
stages = [{ train = "weights", steps = 4, learning_rate = 0.01 }]
batch_size = 8
validate_every = 2
[recipes.all]
stages = [{ train = "head", steps = 2 }, { train = "everything", steps = 2, learning_rate = 1e-4 }]
batch_size = 4
validate_every = 1
[rows.plain]
[rows.max]
[rows.equizero]
proxy = "similarity"
[rows.lambda]
recipe = "quick"
[rows."pruned, k=1"]
wrapper = "pruned"
blocks = 1
recipe = "quick"
[rows."all of it"]
wrapper = "equitune"
recipe = "all"
"""


def write_folders(place: Path) -> Path:
    """Save training and test images of three classes."""
    write_pictures(place / "train", ["iris", "rose", "tulip"], 6)
    write_pictures(place / "test", ["iris", "rose", "tulip"], 3)
    return place


def write_study(path: Path, folders: Path, weights: Path) -> Path:
    """Save the study's config."""
    data = f'[data]\nsource = "folder"\ntrain = "{folders}/train"\ntest = "{folders}/test"\nvalidation = 0.34\n'
    model = f'[model]\nweights = "{weights}"\nhead = "fit"\n'
    path.write_text(f'title = "Tiny"\n{data}{model}{ROWS}', encoding="utf-8")
    return path
