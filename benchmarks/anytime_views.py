"""What `anytime.py` looks up: a frozen network's features of every view of images, kept on disk as they come.

Passes are the only cost of these studies, so each view takes one, and an interrupted run loses a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from turned_images import Study, sets

import equivariant as eq
from continual.data.inputs import open_image
from continual.data.preprocessing import Preprocessing

PARTS = ("train", "held_out", "test")
BATCH = 25  #: images between two savings
BLOCKS = (1, 2, 5, 8, 11)  #: whose class token and mean patch are kept
STRATA = 4  #: how many last blocks `strata` reads


@dataclass(frozen=True)
class Looked:
    """Images of one part of a study, in small, their classes, and what the network says of all views."""

    small: Tensor  #: (n, 3, 32, 32)
    labels: Tensor  #: (n,)
    final: Tensor  #: (n, |G|, D)
    means: Tensor  #: (n, |G|, len(BLOCKS), 2, D), class token and mean patch after some blocks
    strata: Tensor | None = None  #: (n, |G|, 2 D STRATA), what `strata` reads; None where an older version looked


def study(folder: Path, seed: int, classes: int, per_class: int, preparation: Preprocessing) -> Study:
    """Return the images of a folder with train/ and test/, as `turned_images.sets`, or of one without, split by seed.

    Of the latter, `per_class` images of each class are drawn; every fifth is held out, and 15 others are tested.
    """
    if (folder / "train").is_dir():
        return sets(folder, seed, classes, per_class, preparation)
    names = sorted(place.name for place in folder.iterdir() if place.is_dir())[:classes]
    draw, view = np.random.default_rng(seed), preparation.evaluation()
    parts: list[list[tuple[Path, int]]] = [[], [], []]
    for number, name in enumerate(names):
        files = sorted((folder / name).iterdir())
        files = [files[i] for i in draw.permutation(len(files))[: per_class + 15]]
        for place, file in enumerate(files):
            parts[2 if place >= per_class else int(place % 5 == 4)].append((file, number))

    def prepared(part: list[tuple[Path, int]]) -> tuple[Tensor, Tensor]:
        return torch.stack([view(open_image(file)) for file, _ in part]), torch.tensor([c for _, c in part])

    train, held_out, test = map(prepared, parts)
    return Study(train, held_out, test)


def looked(
    place: Path, group: eq.FiniteGroup, images: Callable[[], Study], network: Callable[[], Any]
) -> dict[str, Looked]:
    """Return what the network says of the parts of a study; images and network are asked for what is not kept yet."""
    files = {name: place / f"{name}.safetensors" for name in PARTS}
    if not all(file.exists() for file in files.values()):
        data, vit = images(), network()
        for name, file in files.items():
            inputs, labels = getattr(data, name)
            parts = []
            for number, part in enumerate(inputs.split(BATCH)):
                own = place / name / f"{number:03}.safetensors"
                if not own.exists():
                    own.parent.mkdir(parents=True, exist_ok=True)
                    save_file(_views(vit, group, part.float()), own)
                parts.append(load_file(own))
            found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            small = torch.nn.functional.adaptive_avg_pool2d(inputs.float(), 32)
            save_file({"small": small, "labels": labels, **found}, file)
    kept = {name: load_file(file) for name, file in files.items()}
    return {
        name: Looked(one["small"], one["labels"], one["final"].float(), one["means"].float(), one.get("strata"))
        for name, one in kept.items()
    }


def _views(vit: Any, group: eq.FiniteGroup, images: Tensor) -> dict[str, Tensor]:
    """Return what the network says of all views, under bfloat16 autocast."""
    views = eq.orbit(group, images).transpose(0, 1).flatten(0, 1)
    means: list[Tensor] = []
    strata: list[Tensor] = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(views))))
        for number, block in enumerate(vit.blocks, 1):
            x = block(x)
            if number in BLOCKS:
                means.append(torch.stack([x[:, 0], x[:, vit.num_prefix_tokens :].mean(1)], 1).half())
            if number > len(vit.blocks) - STRATA:
                level = torch.nn.functional.layer_norm(x.float(), x.shape[-1:])
                strata += [level[:, 0].half(), level[:, vit.num_prefix_tokens :].mean(1).half()]
        final = vit.forward_head(vit.norm(x)).half()
    kept = {"final": final, "means": torch.stack(means, 1), "strata": torch.cat(strata, 1)}
    return {name: tensor.unflatten(0, (len(images), group.order)).contiguous() for name, tensor in kept.items()}
