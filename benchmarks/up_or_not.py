"""What `group="auto"` takes on many sets, and how far it is below the better of its two choices.

    python benchmarks/up_or_not.py --data DIR --weights FILE --cache DIR --out up_or_not.json

DIR holds aid/, plankton/, cifar10_small/ and tiny_imagenet_100/. A set is 40 images of each of some classes; in each of
three draws 20, 10 or 5 of a class are learned, by ridge on the final features, and 20 others tested. Some sets are made
of others: every image rotated or mirrored by a random element, test images too. Of Tiny-ImageNet there are ten classes
of each of the halves "tune" and "report" of the other studies. AID and plankton are the images of `anytime.py` with
seed 1, and in its cache.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from anytime_views import PARTS, looked, study
from arguments import Figures, Size, Weights
from real_streams import half_of
from torch import Tensor
from turned_images import Study, network

from continual.data.inputs import open_image
from continual.data.preprocessing import Preprocessing
from continual.statistics.ridge import GramStatistics, expected_best, solve
from continual.symmetry.group_evidence import choice_of, places_of
from continual.symmetry.views import group_named

D4 = group_named("D4")
PRODUCT = torch.tensor(D4.table)
COUNTS, EACH, TESTED = (20, 10, 5), 40, 20
BUILT_UP = ("Airport", "Bridge", "Church", "DenseResidential", "Industrial", "MediumResidential", "Port", "School")


@dataclass(frozen=True)
class Kind:
    """A set: where its images are, which classes, and by elements of which group they are moved."""

    folder: str
    half: str = "all"  #: of the classes, where there are many
    only: tuple[str, ...] = ()  #: of the classes that were looked at
    moved: str | None = None


TINY = "tiny_imagenet_100"
KINDS = {
    "AID": Kind("aid"),
    "AID, built-up": Kind("aid", only=BUILT_UP),
    "plankton": Kind("plankton"),
    "CIFAR-10": Kind("cifar10_small"),
    "CIFAR-10, rotated": Kind("cifar10_small", moved="C4"),
    "CIFAR-10, mirrored": Kind("cifar10_small", moved="mirror_h"),
    "Tiny-ImageNet, tune": Kind(TINY, "tune"),
    "Tiny-ImageNet, tune, mirrored": Kind(TINY, "tune", moved="mirror_h"),
    "Tiny-ImageNet, report": Kind(TINY, "report"),
    "Tiny-ImageNet, report, rotated and mirrored": Kind(TINY, "report", moved="D4"),
}


def views_of(data: Path, kind: Kind, cache: Path, vit: Any, preparation: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return features (n, 8, D) of all views of a set's images, and class indices (n,)."""
    place = data / kind.folder
    if (place / "train").is_dir():
        names = half_of(place, kind.half)[:10]
        kept, images = cache / f"{kind.folder}-{kind.half}-40", lambda: pictures(place / "train", names, preparation)
    else:
        names = sorted(one.name for one in place.iterdir() if one.is_dir())[:15]
        kept, images = cache / f"{kind.folder}-1-D4", lambda: study(place, 1, 15, 25, preparation)
    parts = looked(kept, D4, images, lambda: vit)
    views = torch.cat([parts[part].final for part in PARTS])
    labels = torch.cat([parts[part].labels for part in PARTS])
    chosen = torch.tensor([names.index(name) for name in kind.only or names])
    rows = torch.isin(labels, chosen)
    return views[rows], (labels[rows, None] == chosen).int().argmax(1)


def pictures(place: Path, names: list[str], preparation: Preprocessing) -> Study:
    """Return 40 images of each class, in three parts."""
    view, draw = preparation.evaluation(), np.random.default_rng(0)
    images, labels = [], []
    for number, name in enumerate(names):
        files = sorted((place / name).iterdir())
        images += [view(open_image(files[i])) for i in sorted(draw.permutation(len(files))[:EACH])]
        labels += [number] * EACH
    every, truth = torch.stack(images), torch.tensor(labels)
    part = torch.arange(len(every)) % 4
    train, held_out, test = ((every[rows], truth[rows]) for rows in (part < 2, part == 2, part == 3))
    return Study(train, held_out, test)


def judged(views: Tensor, labels: Tensor, moved: str | None, seed: int, few: int | None = None) -> list[dict[str, Any]]:
    """Return what is taken, and what it gives, by features (n, 8, D) of all views and classes (n,), or a `few`."""
    draw = torch.Generator().manual_seed(seed)
    if few is not None:
        chosen = torch.randperm(int(labels.max()) + 1, generator=draw)[:few]
        rows = torch.isin(labels, chosen)
        views, labels = views[rows], (labels[rows, None] == chosen).int().argmax(1)
    if moved is not None:
        places = torch.tensor(places_of(moved))
        element = places[torch.randint(len(places), (len(labels),), generator=draw)]
        views = views[torch.arange(len(views))[:, None], PRODUCT[torch.arange(D4.order), element[:, None]]]
    rank = torch.empty(len(labels), dtype=torch.int64)
    for own in (torch.nonzero(labels == c).squeeze(1) for c in labels.unique()):
        rank[own] = torch.randperm(len(own), generator=draw)
    test, found = rank >= EACH - TESTED, []
    for count in COUNTS:
        train, figures = rank < count, {}
        for name, each in (("plain", [0]), ("D4", [*range(D4.order)])):
            seen = views[train][:, each].float()
            sums = GramStatistics.of(
                seen.flatten(0, 1), labels[train].repeat_interleave(len(each)), int(labels.max()) + 1
            )
            head = solve(sums, expected_best(sums), standardise=True)
            answers = head(views[test][:, each].float().mean(1)).argmax(1)
            figures[name] = float((answers == labels[test]).double().mean())
        choice = choice_of(views[train].float(), labels[train])
        figures |= {"auto": figures[choice.group or "plain"], "taken": choice.group is not None}
        figures |= {"saved": choice.saved, "up": choice.up}
        found.append({"per_class": count, "draw": seed, **figures})
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return a Markdown table, means over the draws in percent."""
    lines = [
        "| images | per class | D4 taken | plain [%] | D4 [%] | auto [%] | below the better | saved [%] | seen [%] |"
    ]
    lines.append(f"| --- {8 * '| --: '}|")
    for name, records in found.items():
        for count in COUNTS:
            own = [record for record in records if record["per_class"] == count]
            columns = ("plain", "D4", "auto", "saved", "up")
            plain, whole, auto, saved, up = (100 * float(np.mean([r[column] for r in own])) for column in columns)
            taken = f"{sum(record['taken'] for record in own)} of {len(own)}"
            shown = (plain, whole, auto, max(plain, whole) - auto)
            cells = [taken, *(f"{x:.1f}" for x in shown), f"{saved:+.0f}", f"{up:.0f}"]
            lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return lines


def main(
    data: Annotated[Path, typer.Option(help="The folder that holds the sets.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="A folder that keeps what the network says.")],
    out: Figures,
    size: Size = 98,
    classes: Annotated[int | None, typer.Option(help="So many of a set, others in each draw; all without.")] = None,
    draws: int = 3,
) -> None:
    """Judge every set, and print a table."""
    found: dict[str, list[dict[str, Any]]] = json.loads(out.read_text()) if out.is_file() else {}
    if any(max(record["draw"] for record in records) != draws for records in found.values()):
        raise typer.BadParameter(f"{out} is of another number of draws: name another file")
    vit, preparation = network("vit", weights, size)
    for name, kind in KINDS.items():
        if name in found:
            continue
        views, labels = views_of(data, kind, cache, vit, preparation)
        found[name] = [
            record for seed in range(1, draws + 1) for record in judged(views, labels, kind.moved, seed, classes)
        ]
        print(name, json.dumps(found[name]), flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    typer.run(main)
