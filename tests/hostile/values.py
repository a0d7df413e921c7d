"""Values that nobody expects, and places to put them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

#: arguments with which timm can be made to fetch, write or run something
LEVERS: list[tuple[str, Any]] = [
    ("pretrained_cfg", {"url": "http://127.0.0.1:9/x.pth", "hf_hub_id": "evil/model"}),
    ("pretrained_cfg_overlay", {"url": "http://127.0.0.1:9/x.pth", "file": "/etc/passwd"}),
    ("pretrained", True),
    ("checkpoint_path", "evil.pth"),
    ("cache_dir", "../outside"),
    ("features_only", True),
    ("scriptable", True),
    ("exportable", True),
    ("norm_layer", "os.system"),
    ("img_size", 10**9),
    ("patch_size", 0),
    ("embed_dim", 10**8),
    ("depth", 10**9),
    ("num_heads", 7),
    ("num_classes", 10**9),
    ("in_chans", 10**9),
    ("reg_tokens", 10**9),
    ("mlp_ratio", 1e300),
]

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 10**9, 2**63, 10**40, 0.5, 1e308, float("nan"), float("inf"), "", "x", "a\nb",
    "\ud800", "\x1b[31mred", "\u202egnp.exe", "../../outside", "/dev/zero", "os:system", "evil.py:Learner",
    "x" * 100_000,
    [], {}, [[]], [None], [1, 1], ["a", "a"], ["a", 1], [0.0] * 1000, {"": 1}, {"a": {"b": {"c": []}}},
    {"url": "http://127.0.0.1:9/"}, [[[[[[[[[[0]]]]]]]]]],
]  # fmt: skip


def places(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every place in nested values, from the outside in."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*place, key)
        yield from places(value, (*place, key))


def changed(values: Any, draw: random.Random) -> tuple[str, Any]:
    """Return what was done, and values with something changed, taken away, or added."""
    values = copy.deepcopy(values)
    place = draw.choice([*places(values)])
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    said = ".".join(map(str, place))
    what = draw.random()
    if what < 0.7:
        value = draw.choice(VALUES)
        inner[place[-1]] = value
        return f"{said} = {ascii(value)[:60]}", values
    if what < 0.85:
        del inner[place[-1]]
        return f"no {said}", values
    if isinstance(inner, dict):
        inner[draw.choice(["extra", "", "__class__", "kind"])] = draw.choice(VALUES)
    else:
        inner.append(draw.choice([*VALUES, *inner]))
    return f"more beside {said}", values
