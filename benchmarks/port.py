"""What a backbone's update breaks of a model, and how much of it the port wins back with a few unlabelled images.

    python benchmarks/port.py update --images DIR --weights VIT --seed 1993 --out 1993.safetensors
    python benchmarks/port.py read --images DIR --others CIFAR --weights VIT --out features/old.safetensors
    python benchmarks/port.py read ... --weights 1993.safetensors --out features/fine-tuned-1993.safetensors
    python benchmarks/port.py measure --features features --weights VIT --out port.json
    python benchmarks/port.py trained --images DIR --others CIFAR --weights VIT --updates DIR2 --out port_trained.json

`DIR` holds train/CLASS and test/CLASS, cut in two halves as in benchmarks/strata.py. The update fine-tunes all weights
of the ViT on the half "tune"; models are of classes of the half "report". `measure` takes closed forms, `trained`
methods that train: DIR2 holds what `update` wrote, SEED.safetensors each.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import torch
import typer
from arguments import SEEDS, Images, Out, Weights
from real_streams import half_of
from torch import Tensor, nn

from continual.backbones.loading import Backbone, load_backbone
from continual.data.images import open_image
from continual.errors import InputError
from continual.learning.porting import Space
from continual.methods import method
from continual.methods.bases.regression_update import RegressionState
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics
from continual.statistics.transport import FeatureMap
from continual.uncertainty.left_out import Rows

SIZE = 70
CLASSES, TRAIN, TEST, MAPPING = 50, 15, 6, 220  #: classes of a model; images of each, and of anything, that are read
LEARNED = 12  #: images of each class that a model learns, drawn by the seed
STEPS, BATCH, RATE = 120, 16, 1e-4
#: of methods that train: classes in two experiences, and images of each that are learned and asked about
FEW_CLASSES, FEW_LEARNED, FEW_TESTED = 10, 10, 25
TRAINED: dict[str, dict[str, Any]] = {
    "mos": {"epochs": 4, "batch_size": 8, "lr": 0.03},
    "slca": {"epochs": 4, "batch_size": 8, "part": "last_blocks"},
}

app = typer.Typer()


@app.command()
def update(
    images: Images,
    weights: Weights,
    out: Out,
    seed: int = 1993,
    half: str = "tune",
    last: Annotated[int, typer.Option(help="Only so many of its last classes; 0: all.")] = 0,
) -> None:
    """Fine-tune all weights of the ViT on classes of a half, for 120 steps of AdamW, and write them."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    backbone = load_backbone(weights=weights, img_size=SIZE, crop_scale=(0.4, 1.0))
    names = half_of(images, half)[-last:]
    rows = [(path, c) for c, name in enumerate(names) for path in sorted((images / "train" / name).iterdir())]
    network = backbone.frozen.network.requires_grad_(True).train()
    head, view = nn.Linear(backbone.width, len(names)), backbone.preprocessing.training()
    groups = [{"params": list(network.parameters())}, {"params": list(head.parameters()), "lr": 10 * RATE}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [RATE, 10 * RATE], total_steps=STEPS)
    for step in range(STEPS):
        chosen = [rows[i] for i in torch.randint(len(rows), (BATCH,)).tolist()]
        batch = torch.stack([view(open_image(path)) for path, _ in chosen])
        loss = nn.functional.cross_entropy(head(network(batch)), torch.tensor([c for _, c in chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 10 == 0:
            print(f"step {step}: loss {float(loss):.2f}", flush=True)
    metadata = {"timm": backbone.name, **{k: json.dumps(v) for k, v in backbone.model_args.items()}}
    out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out, metadata=metadata)


@app.command()
def read(
    images: Images,
    weights: Weights,
    others: Annotated[Path, typer.Option(help="A folder of images of anything, at any depth.")],
    out: Out,
    size: int = SIZE,
    name: Annotated[str | None, typer.Option(help="timm's name, where the weights do not say it.")] = None,
) -> None:
    """Keep what strata reads of all images, and of their mirror images, under one network."""
    torch.set_num_threads(1)
    backbone = load_backbone(name, weights=weights, img_size=size)
    learner, view = StrataLearner(backbone), backbone.preprocessing.evaluation()
    out.parent.mkdir(parents=True, exist_ok=True)
    found = safetensors.torch.load_file(out) if out.exists() else {}
    for part, rows in _images(images, others).items():
        if part in found:
            continue
        parts = []
        for first in range(0, len(rows), 50):
            batch = torch.stack([view(open_image(path)) for path, _ in rows[first : first + 50]])
            with torch.no_grad():
                parts.append(torch.stack(list(learner.learned_features(learner.extractor, batch)), 1).half())
        found[part] = torch.cat(parts).contiguous()
        safetensors.torch.save_file(found, out)
        print(out.stem, part, len(rows), flush=True)


def _images(images: Path, others: Path) -> dict[str, list[tuple[Path, int]]]:
    """Return images by their part, with class indices: the model's own, and two kinds to map features by."""
    draw = generator(0, "mapping images")

    def some(paths: list[Path]) -> list[tuple[Path, int]]:
        return [(paths[i], 0) for i in torch.randperm(len(paths), generator=draw)[:MAPPING].tolist()]

    own = half_of(images, "report")
    parts = {
        part: [(path, c) for c, name in enumerate(own) for path in sorted((images / part / name).iterdir())[:count]]
        for part, count in (("train", TRAIN), ("test", TEST))
    }
    other_classes = [path for name in half_of(images, "tune") for path in sorted((images / "test" / name).iterdir())]
    return {**parts, "classes": some(other_classes), "others": some(sorted(others.rglob("*.jpg")))}


@app.command()
def measure(
    features: Annotated[Path, typer.Option(help="What `read` wrote: old.safetensors, and others.")],
    weights: Weights,
    out: Out,
    methods: Annotated[list[str], typer.Option(help="ridge, strata.")] = ["ridge", "strata"],  # noqa: B006
) -> None:
    """Port models of every seed from `old` to every other network; a name that ends in a seed is of that seed alone."""
    torch.set_num_threads(1)
    backbone = load_backbone(weights=weights, img_size=SIZE)
    read_ = {path.stem: safetensors.torch.load_file(path) for path in sorted(features.glob("*.safetensors"))}
    rows = []
    for name, new in read_.items():
        update_, _, own = name.rpartition("-") if name.rpartition("-")[2].isdecimal() else (name, "", None)
        for seed in SEEDS:
            if name == "old" or (own is not None and int(own) != seed):
                continue
            for kind in map(method, methods):
                for source, count in (("others", 50), ("others", 200), ("classes", 50), ("classes", 200)):
                    row = _ported(kind(backbone, seed=seed), read_["old"], new, source, count)
                    rows.append({"update": update_, "seed": seed, "by": source, "images": count, **row})
                    print(rows[-1], flush=True)
                    out.write_text(json.dumps(rows, indent=1) + "\n")


def _ported(learner: Any, old: dict[str, Tensor], new: dict[str, Tensor], source: str, count: int) -> dict[str, Any]:
    """Return accuracies and flips of a model on the old network, unmapped, ported, and learned on the new one."""
    own, last = learner.settings, learner.method == "ridge"
    every = torch.arange(CLASSES * TRAIN).unflatten(0, (CLASSES, TRAIN))
    draw = generator(own.seed, "training images")
    chosen = torch.cat([rows[torch.randperm(TRAIN, generator=draw)[:LEARNED]] for rows in every])
    labels = torch.arange(CLASSES).repeat_interleave(LEARNED)
    truth = torch.arange(CLASSES).repeat_interleave(TEST)
    mapping = torch.randperm(MAPPING, generator=generator(own.seed, "mapping"))[:count]

    def part(read_: dict[str, Tensor], name: str, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return features (n, v, D')."""
        found = read_[name][rows].float()
        width = found.shape[-1]
        if not last:
            return found
        # The last class token, or a CNN's features: what ridge reads, except for the last norm's gain.
        own_ = slice(6 * 384, 7 * 384) if width == 8 * 384 else slice(1280)
        return found[:, :1, own_]

    def learned_on(read_: dict[str, Tensor]) -> Any:
        """Return a state as of `learn`."""
        rows = part(read_, "train", chosen)
        views = rows.shape[1]
        flat, of = rows.flatten(0, 1), labels.repeat_interleave(views)
        readings = None if views == 1 else torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        sums = GramStatistics.of(flat, of, CLASSES).scaled(1 / views)
        names = {"classes": tuple(range(CLASSES)), "class_experience": (0,) * CLASSES, "experiences": 1, "updates": 1}
        return learner.solved(RegressionState(**names, sums=sums), Rows(flat, of, views, 1 / views, readings))

    def answers(state: Any, read_: dict[str, Tensor]) -> Tensor:
        return state.head(part(read_, "test").mean(1)).argmax(-1)

    learner.state = learned_on(old)
    was = answers(learner.state, old) == truth
    x, z = (part(read_, source, mapping).flatten(0, 1) for read_ in (old, new))
    space = Space(x, z, FeatureMap.fit(x, z, len(x) // count))
    target = learner.variant()
    target.state = learner.ported(target, [space], 0.0)
    without = replace(space.map, residuals=space.map.residuals * 0)
    bare = learner.variant()
    bare.state = learner.ported(bare, [Space(x, z, without)], 0.0)
    simulation = learner.port_simulation(target, [space])
    lost = []
    for index in range(CLASSES):
        before, after = simulation(index, 200, generator(0, "review", index))
        lost.append(float(((before == index) & (after != index)).float().mean()))
    right = {"old": was, "ported": answers(target.state, new) == truth}
    if x.shape[1] == z.shape[1]:
        right["not mapped"] = answers(learner.state, new) == truth
    right |= {"without R": answers(bare.state, new) == truth, "relearned": answers(learned_on(new), new) == truth}
    row = {"method": learner.method, "explained": space.map.explained, "flips expected": sum(lost) / len(lost)}
    row |= {name: float(own_.float().mean()) for name, own_ in right.items()}
    return row | {f"flips {name}": float((was & ~own_).float().mean()) for name, own_ in right.items() if name != "old"}


@app.command()
def trained(
    images: Images,
    others: Annotated[Path, typer.Option(help="A folder of images of anything, at any depth.")],
    weights: Weights,
    updates: Annotated[Path, typer.Option(help="What `update` wrote, SEED.safetensors each.")],
    out: Out,
    methods: Annotated[list[str], typer.Option(help="Methods.")] = [*TRAINED],  # noqa: B006
    seeds: Annotated[list[int], typer.Option(help="Seeds.")] = SEEDS,
) -> None:
    """Learn two experiences, port by 200 images, and ask; what `out` holds is not done again."""
    torch.set_num_threads(1)
    old = load_backbone(weights=weights, img_size=SIZE, crop_scale=(0.4, 1.0))
    rows = json.loads(out.read_text()) if out.exists() else []
    for seed in seeds:
        new = load_backbone(weights=updates / f"{seed}.safetensors", img_size=SIZE, crop_scale=(0.4, 1.0))
        for name in methods:
            if not any((row["method"], row["seed"]) == (name, seed) for row in rows):
                rows += _trained(name, seed, images, others, old, new)
                out.write_text(json.dumps(rows, indent=1) + "\n")


def _trained(name: str, seed: int, images: Path, others: Path, old: Backbone, new: Backbone) -> list[dict[str, Any]]:
    """Return accuracy and flips of a model before and after a port, by mapping images and ways."""
    own = half_of(images, "report")
    classes = [own[i] for i in np.random.RandomState(seed).permutation(len(own))[:FEW_CLASSES]]
    test = [(path, c) for c in classes for path in sorted((images / "test" / c).iterdir())[:FEW_TESTED]]
    mapping = {part: [path for path, _ in _images(images, others)[part]][:200] for part in ("classes", "others")}

    def learned(backbone: Backbone) -> Any:
        learner = method(name)(backbone, seed=seed, **TRAINED[name])
        for part in (classes[: FEW_CLASSES // 2], classes[FEW_CLASSES // 2 :]):
            chosen = [(path, c) for c in part for path in sorted((images / "train" / c).iterdir())[:FEW_LEARNED]]
            learner.learn([path for path, _ in chosen], [c for _, c in chosen])
        return learner

    def right(learner: Any) -> Tensor:
        answers = learner.predict([path for path, _ in test]).labels
        return torch.tensor([a == c for a, (_, c) in zip(answers, test, strict=True)])

    before = learned(old)
    was = right(before)
    rows: list[dict[str, Any]] = []
    found: list[tuple[str, str, float, Tensor]] = [("old", "", 1.0, was)]
    found.append(("not mapped", "", 0.0, right(before._on(new))))
    for source, keep in (("classes", 0.0), ("others", 0.0), ("others", 1.0)):
        learner = before.variant()
        way = f"ported, keep_answers={keep:g}"
        try:
            report = learner.port(new, mapping[source], keep_answers=keep)
        except InputError as error:
            rows.append({"method": name, "seed": seed, "way": way, "by": source, "refused": str(error)})
        else:
            found.append((way, source, min(report.explained), right(learner)))
    found.append(("relearned", "", 1.0, right(learned(new))))
    rows += [
        {"method": name, "seed": seed, "way": way, "by": source, "explained": explained}
        | {"accuracy": float(now.float().mean()), "flips": float((was & ~now).float().mean())}
        for way, source, explained, now in found
    ]
    for row in rows:
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    app()
