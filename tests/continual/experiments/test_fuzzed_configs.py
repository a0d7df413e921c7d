"""Two hundred bad configs: each is one line on standard error and exit code 2, and touches no file."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.cli.runs import _toml

Equimos = Callable[..., Any]
COUNT = 200
NUMBERS = ("settings.lr", "settings.momentum", "backbone.pretrain.lr", "methods.mos.alpha", "methods.mos.adapter_scale")
WHOLE = ("stream.per_class", "stream.max_classes", "settings.epochs", "settings.batch_size", "backbone.pretrain.epochs")
PLAIN = ("title", "data.source", "data.train", "stream.classes", "backbone.name", "methods", "seeds", "device")


def good(folder: Path) -> dict[str, Any]:
    return {
        "title": "Good",
        "seeds": [1, 2],
        "device": "cpu",
        "data": {"source": "folder", "train": str(folder / "images"), "test": str(folder / "images")},
        "stream": {"classes": 1, "max_classes": 2, "per_class": 3},
        "backbone": {
            "name": "vit_tiny_patch16_224",
            "args": {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
            "pretrain": {"epochs": 1, "lr": 1e-3, "batch_size": 4, "turns": True},
        },
        "settings": {"epochs": 1, "batch_size": 4, "lr": 0.05, "momentum": 0.5, "precision": "float32"},
        "methods": {"mos": {"alpha": 0.1, "adapter_scale": 0.1, "variants": {"alone": {"ensemble": False}}}},
    }


def put(values: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[last] = value


def misspelt(values: dict[str, Any], draw: random.Random) -> None:
    """Change a letter of a known key."""
    tables = [values, *(values[k] for k in ("data", "stream", "backbone", "settings")), values["methods"]["mos"]]
    table = draw.choice(tables)
    key = draw.choice(sorted(table))
    at = draw.randrange(len(key))
    table[key[:at] + "xq" + key[at + 1 :]] = table.pop(key)


def not_a_number(values: dict[str, Any], draw: random.Random) -> None:
    put(values, draw.choice(NUMBERS), draw.choice([float("nan"), float("inf"), float("-inf")]))


def out_of_range(values: dict[str, Any], draw: random.Random) -> None:
    key, value = draw.choice(
        [
            *[(key, -draw.randint(1, 9)) for key in WHOLE],
            *[(key, draw.uniform(-9, -1)) for key in NUMBERS[:4]],
            ("seeds", [-1]),
            ("seeds", [2**32]),
            ("seeds", [3, 3]),
            ("seeds", []),
            ("stream.classes", 0),
            ("stream.classes", draw.randint(3, 9)),
            ("stream.classes", [1, 2]),
            ("stream.max_classes", 7),
            ("methods.mos.alpha", 1.5),
            ("settings.momentum", 1.0),
        ]
    )
    put(values, key, value)


def of_another_kind(values: dict[str, Any], draw: random.Random) -> None:
    key = draw.choice([*NUMBERS, *WHOLE, *PLAIN, "data", "backbone", "methods.mos", "settings", "methods.mos.variants"])
    wrong = [{"a": {"b": [1]}}, [[{}]]]
    put(
        values,
        key,
        draw.choice(wrong if key.startswith(("title", "device", "data.", "backbone.")) else [*wrong, "word"]),
    )


def left_out(values: dict[str, Any], draw: random.Random) -> None:
    table, key = draw.choice(
        [(values, "title"), (values, "data"), (values, "stream"), (values, "backbone"), (values, "methods")]
        + [(values["data"], k) for k in ("source", "train", "test")]
        + [(values["stream"], "classes"), (values["backbone"], "name")]
    )
    del table[key]


def unknown_choice(values: dict[str, Any], draw: random.Random) -> None:
    of_mos = ("method", "preset", "merge", "statistics")
    keys = ("data.source", "device", "settings.precision", "backbone.name", *[f"methods.mos.{key}" for key in of_mos])
    key = draw.choice(keys)
    put(values, key, "".join(draw.choices("bcdfgh", k=6)))


def elsewhere(values: dict[str, Any], draw: random.Random) -> None:
    """Name files that are not there, or no images."""
    key, value = draw.choice(
        [
            ("data.train", "gone"),
            ("data.test", "gone"),
            ("data.train", "."),
            ("backbone.weights", "gone.safetensors"),
            ("backbone.args", {"img_size": 16, "patch_size": 8, "no_such_argument": draw.randint(1, 9)}),
            ("backbone.preprocessing", {"scale": 1}),
            ("sweep", draw.choice([3, {"a": 1}, {"../b": {"title": "x"}}, {"c": {"titel": 3}}])),
        ]
    )
    put(values, key, value)
    if key == "backbone.weights":
        del values["backbone"]["pretrain"]


CHANGES = (misspelt, not_a_number, out_of_range, of_another_kind, left_out, unknown_choice, elsewhere)


def bad(number: int, folder: Path) -> tuple[bytes, list[str]]:
    """Return the text of a bad config, and what follows it on the command line."""
    draw = random.Random(number)
    values = copy.deepcopy(good(folder))
    if number % 10 == 8:
        text = _toml(values)
        cut = text.index("=", draw.randrange(len(text) // 2)) + 1
        return draw.choice(
            [text[:cut].encode(), b"\xff\xfe" + text.encode(), (text + "title = 1\n[data]\n").encode()]
        ), []
    if number % 10 == 9:
        wrong = ["=3", "nonsense", "a b=1", "title.x=1", "settings.lr=inf", "stream.clases=3", "methods.mos.epochs=-1"]
        return _toml(values).encode(), [draw.choice(wrong)]
    draw.choice(CHANGES)(values, draw)
    return _toml(values).encode(), []


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_config_that_is_spoilt_is_good(equimos: Equimos, pictures: Any, tmp_path: Path) -> None:
    pictures("images", ["rose", "iris"])
    (tmp_path / "c.toml").write_text(_toml(good(tmp_path)))
    result = equimos("run", tmp_path / "c.toml", "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    "command",
    [pytest.param(("run",), id="run", marks=pytest.mark.slow), pytest.param(("run", "--dry-run"), id="dry-run")],
)
def test_bad_configs_are_refused(
    equimos: Equimos, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    pictures("images", ["rose", "iris"])
    config = tmp_path / "c.toml"
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT // 2) if len(command) > 1 else range(COUNT // 2, COUNT):
        text, words = bad(number, tmp_path)
        config.write_bytes(text)
        before = tree(tmp_path)
        result = equimos(*command, config, *words)
        case = json.dumps([number, text.decode("latin-1"), words, result.stderr])
        assert result.exit_code == 2, case
        assert result.stdout == "", case
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, case
        assert result.stderr.splitlines()[-1] == errors[0], case
        assert "Traceback" not in result.stderr, case
        assert tree(tmp_path) == before, case
