"""Model files: headers, tensors and bytes that are not as they should be."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from continual import files
from tests.hostile.corpus import Hostile, Materials, Words
from tests.hostile.values import LEVERS, changed

Tensors = dict[str, Tensor]


def cases(draw: random.Random, materials: Materials) -> Iterator[Hostile]:
    """Yield changed headers and tensors of every model in turn, and damaged bytes."""
    sound = [(path, *files.fetch(path)) for path in materials.models]
    while True:
        for path, tensors, header in sound:
            for make in (_header, _header, _tensor, _argument, _bytes):
                yield make(path, tensors, header, draw, materials)


def _header(_: Path, tensors: Tensors, header: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    said, values = changed(json.loads(header["equimos"]), draw)
    written = {**header, "equimos": json.dumps(values)}
    return Hostile(said, lambda folder: _use(_save(folder, tensors, written), draw_of(said), materials))


def _tensor(_: Path, tensors: Tensors, header: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    name = draw.choice(sorted(tensors))
    how = draw.choice(sorted(_DAMAGE))
    found = {**tensors, name: _DAMAGE[how](tensors[name])}
    if how == "gone":
        del found[name]
    said = f"{name} {how}"
    spoiled = how in ("not a number", "infinite") and tensors[name].is_floating_point() and tensors[name].numel() > 0
    must = spoiled and name.startswith(("state/", "backbone/"))

    def make(folder: Path) -> Sequence[Words]:
        commands = _use(_save(folder, found, header), draw_of(said), materials)
        return [words for words in commands if words[0] == "predict"] if must else commands

    return Hostile(said, make, refused=must)


def _argument(_: Path, tensors: Tensors, header: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    values = json.loads(header["equimos"])
    key, value = draw.choice(LEVERS)
    values["backbone"]["model_args"][key] = value
    written, said = {**header, "equimos": json.dumps(values)}, f"model_args.{key}={value}"

    def make(folder: Path) -> Sequence[Words]:
        return [_predict(_save(folder, tensors, written), materials)]

    return Hostile(said, make, refused=True)


def _bytes(path: Path, _: Tensors, __: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    content = bytearray(path.read_bytes())
    how = draw.choice(["cut", "longer", "flipped", "length"])
    length = int.from_bytes(content[:8], "little")
    if how == "cut":
        del content[draw.randrange(len(content)) :]
    elif how == "longer":
        content += bytes(draw.randrange(1, 100))
    elif how == "flipped":
        for _place in range(draw.choice([1, 3, 20])):
            content[draw.randrange(8 + length)] ^= 1 << draw.randrange(8)
    else:
        content[:8] = draw.choice([0, 1, 2**40, 2**63, length - 1, length + 1]).to_bytes(8, "little")

    def make(folder: Path) -> Sequence[Words]:
        (folder / "model.safetensors").write_bytes(content)
        return _use(folder / "model.safetensors", draw_of(how + str(len(content))), materials)

    return Hostile(f"bytes {how}", make)


_DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "gone": lambda t: t,
    "flat": lambda t: t.reshape(-1),
    "transposed": lambda t: t.transpose(0, -1).contiguous() if t.ndim > 1 else t[None],
    "empty": lambda t: t.reshape(-1)[:0],
    "twice": lambda t: torch.cat([t, t]) if t.ndim else torch.stack([t, t]),
    "shorter": lambda t: t[:-1] if t.ndim else t[None],
    "scalar": lambda t: t.reshape(-1)[0] if t.numel() else torch.zeros(()),
    "not a number": lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else t - 10**3,
    "infinite": lambda t: torch.full_like(t, torch.inf) if t.is_floating_point() else t + 10**6,
    "huge": lambda t: torch.full_like(t, 1e38) if t.is_floating_point() else t,
    "half": lambda t: t.half(),
    "whole": lambda t: t.nan_to_num().long() if t.is_floating_point() else t.long(),
    "boolean": lambda t: t.bool(),
    "eight bits": lambda t: t.float().to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
}


def draw_of(name: str) -> random.Random:
    """Return a generator of its own for a case, so that it does not depend on others."""
    return random.Random(name)


def _save(folder: Path, tensors: Tensors, header: dict[str, str]) -> Path:
    plain = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(plain, folder / "model.safetensors", header)
    return folder / "model.safetensors"


def _predict(model: Path, materials: Materials) -> Words:
    return ["predict", materials.images, "--model", model, "--device", "cpu", "--json", model.with_name("out.json")]


def _use(model: Path, draw: random.Random, materials: Materials) -> Sequence[Words]:
    """Return the commands to try: two that every file meets, and one of those that change a model."""
    images: Any = materials.images
    cpu = ("--device", "cpu")
    edits: list[Words] = [
        ["forget", "rose", "--model", model, *cpu],
        ["forget", "rose", "--everywhere", "--model", model, *cpu],
        ["rename", "rose", "briar", "--model", model],
        ["correct", images / "tulip", "--class", "rose", "--model", model, *cpu],
        ["history", "--model", model],
        ["rollback", "--model", model],
        ["learn", "--yes", "--images", images.parent / "more", "--model", model, *cpu],
    ]
    return [["info", "--model", model], _predict(model, materials), draw.choice(edits)]
