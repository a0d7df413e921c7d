"""Weights files: metadata with levers, pickles that would run code, tensors of other networks, damaged bytes."""

from __future__ import annotations

import collections
import json
import os
import pickle
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from continual import files
from tests.hostile.corpus import Hostile, Materials, Words
from tests.hostile.kinds.model_files import _DAMAGE
from tests.hostile.values import LEVERS, VALUES


class Payload:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def cases(draw: random.Random, materials: Materials) -> Iterator[Hostile]:
    """Yield files of every form in turn."""
    tensors, metadata = files.fetch(materials.weights)
    while True:
        for make in (_metadata, _pickle, _tensors, _bytes):
            yield make(tensors, metadata, draw, materials)


def _learn(path: Path, materials: Materials) -> Sequence[Words]:
    words: list[str | Path] = ["learn", "--dry-run", "--images", materials.images, "--model", path.with_name("new")]
    return [[*words, "--weights", path, "--device", "cpu"]]


def _metadata(tensors: Any, metadata: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    if draw.random() < 0.5:
        key, value = draw.choice(LEVERS)
    else:
        key, value = draw.choice(["timm", "recipe", "preprocessing", *metadata]), draw.choice(VALUES)
    text = value.encode(errors="replace").decode() if isinstance(value, str) else json.dumps(value)
    written = {**metadata, key: text}

    def make(folder: Path) -> Sequence[Words]:
        safetensors.torch.save_file(tensors, folder / "w.safetensors", written)
        return _learn(folder / "w.safetensors", materials)

    return Hostile(f"metadata {key}={ascii(value)[:60]}", make, refused=key in dict(LEVERS[:9]))


def _pickle(tensors: Any, _: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    how = draw.choice(["torch", "legacy", "plain", "npz", "deep", "ordered"])
    suffix = draw.choice([".pth", ".pt", ".ckpt", ".tar", ".bin", ".PTH", ".safetensors", ".npz", ""])

    def make(folder: Path) -> Sequence[Words]:
        path = folder / f"w{suffix}"
        if how == "npz":
            with path.open("wb") as file:
                np.savez(file, weights=np.array([Payload()], dtype=object))
        elif how == "plain":
            path.write_bytes(pickle.dumps(Payload(), protocol=draw_protocol))
        else:
            deep = {"a": {"b": Payload()}} if how == "deep" else Payload()
            state = collections.OrderedDict(tensors) if how == "ordered" else tensors
            torch.save({"state_dict": state, "extra": deep}, path, _use_new_zipfile_serialization=how != "legacy")
        return _learn(path, materials)

    draw_protocol = draw.choice([0, 2, 4])
    return Hostile(f"pickle {how} as {suffix}", make, refused=True)


def _tensors(tensors: Any, metadata: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    name, how = draw.choice(sorted(tensors)), draw.choice(sorted(_DAMAGE))
    found = {**tensors, name: _DAMAGE[how](tensors[name]).contiguous().clone()}
    if how == "gone":
        del found[name]

    def make(folder: Path) -> Sequence[Words]:
        safetensors.torch.save_file(found, folder / "w.safetensors", metadata)
        return _learn(folder / "w.safetensors", materials)

    return Hostile(f"{name} {how}", make)


def _bytes(tensors: Any, metadata: dict[str, str], draw: random.Random, materials: Materials) -> Hostile:
    content = bytearray(materials.weights.read_bytes())
    suffix, how = draw.choice([".pth", ".safetensors", ".npz", ".ckpt"]), draw.choice(["cut", "flipped", "noise"])
    if how == "cut":
        del content[draw.randrange(len(content)) :]
    elif how == "flipped":
        for _ in range(10):
            content[draw.randrange(2000)] ^= 1 << draw.randrange(8)
    else:
        content = bytearray(draw.randbytes(draw.choice([0, 1, 7, 8, 9, 500, 10_000])))

    def make(folder: Path) -> Sequence[Words]:
        (folder / f"w{suffix}").write_bytes(content)
        return _learn(folder / f"w{suffix}", materials)

    return Hostile(f"bytes {how} as {suffix}", make)
