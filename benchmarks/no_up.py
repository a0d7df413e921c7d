"""What symmetry gains on images that have no up, and what it costs on images that have one.

    python benchmarks/no_up.py configs/no_up/plankton.toml --source DIR --weights FILE --cache DIR --out plankton.json

Every row and split of a config of closed forms, by the learners' own sums, penalties and heads, on features of all
views that are computed once and kept in the cache. Accuracies should be those of `equimos run` on the same config, but
"transformed" is the mean over all elements of D4, where a run draws one for each image. `--check "ridge, C4"` runs
that row of the first split by the run's own code as well, and compares. no_up_report.py makes tables of the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from arguments import Figures, Weights
from remembered import RememberedViT, remembering
from torch import Tensor

from continual.avalanche.external import find_method
from continual.backbones.loading import Backbone, load_backbone
from continual.data.inputs import PreparedImages
from continual.data.loaders import evaluation_loader
from continual.datasets.streams import Stream
from continual.experiments.config import RunConfig, load_runs
from continual.experiments.run import run_cell, streams
from continual.metrics.accuracy import seen_accuracy
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics, LinearHead, solve
from continual.symmetry.choice import AUTO, GroupChoice
from continual.symmetry.equitune import Equitune
from continual.symmetry.left_out import choice_of, places_of
from continual.symmetry.views import content_order, group_named

D4 = group_named("D4")
PRODUCT = torch.tensor(D4.table)
MIRROR = places_of("mirror_h")[1]


@dataclass(frozen=True)
class Views:
    """What the backbone says of all views of images, the image as given first."""

    plain: Tensor  #: (n, 8, T), prepared as for a learner without a group
    posed: Tensor  #: (n, 8, T), as for one with a group
    order: Tensor  #: (n, 8), the places of views in the order that their content decides

    @classmethod
    def of(cls, backbone: Backbone, images: Sequence[Any], *, posed: bool) -> Views:
        """Look at images, or look them up; if `posed`, only as they are prepared with a group, for plain rows too."""
        symmetry, tokens, order = Equitune(D4), [], []
        plain = [] if posed else [backbone.preprocessing]
        for preprocessing in (*plain, backbone.preprocessing.for_a_group()):
            prepared = PreparedImages(images, [0] * len(images), preprocessing, augment=False)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                for batch, _ in evaluation_loader(prepared, 8):
                    views = symmetry.views(batch)
                    found = backbone.frozen.block_tokens(views.flatten(0, 1), 4)
                    tokens.append(found.unflatten(0, views.shape[:2]))
                    order.append(content_order(views))
        found = torch.cat(tokens)
        return cls(found[: len(images)], found[-len(images) :], torch.cat(order)[-len(images) :])


@dataclass(frozen=True)
class Split:
    """The rows of an experience's images, all classes together, and where its first experience ends."""

    train: Tensor
    labels: Tensor
    test: Tensor
    truth: Tensor
    first: int
    position: Tensor  #: (n,), the element of D4 that has transformed each training image

    @classmethod
    def of(cls, stream: Stream, row: dict[Any, int], config: RunConfig) -> Split:
        """Return the rows of a stream's images."""
        index = {label: number for number, label in enumerate(stream.class_order)}
        parts = stream.experiences
        return cls(
            torch.tensor([row[image] for part in parts for image in part.train_images]),
            torch.tensor([index[label] for part in parts for label in part.train_labels]),
            torch.tensor([row[image] for part in parts for image in part.test_images]),
            torch.tensor([index[label] for part in parts for label in part.test_labels]),
            len(parts[0].train_labels),
            torch.cat([_positions(config, number, len(part.train_labels)) for number, part in enumerate(parts)]),
        )


def _positions(config: RunConfig, number: int, count: int) -> Tensor:
    """Return the elements that `transformed_training` draws for the images of an experience."""
    if config.train_transformed is None:
        return torch.zeros(count, dtype=torch.int64)
    draw = generator(config.seeds[0], "turned for training", D4.name, number)
    return torch.randint(D4.order, (count,), generator=draw)


class Row:
    """A learner of a config, on remembered features."""

    def __init__(self, config: RunConfig, label: str, backbone: Backbone, views: Views, split: Split) -> None:
        row = config.methods[label]
        self.choice: GroupChoice | None = None
        settings = row.make_settings(seed=config.seeds[0]).model_dump()
        self.ridge, self.split = row.method == "ridge", split
        vit = backbone.frozen
        assert isinstance(vit, RememberedViT)
        self.read: Callable[[Tensor], Tensor] = vit.final if self.ridge else lambda tokens: tokens
        if settings["group"] == AUTO:
            first, every = slice(split.first), torch.arange(D4.order)
            seen = views.posed[split.train[first, None], PRODUCT[every, split.position[first, None]]]
            self.choice = choice_of(vit.final(seen), split.labels[first])
            settings["group"] = self.choice.group
            if self.choice.group is not None and not self.ridge:
                settings["mirror"] = False  # as `StrataLearner.mirrored`
        self.learner: Any = find_method(row.method)(backbone, **settings)
        self.symmetry = self.learner.symmetry
        self.tokens = views.plain if settings["group"] is None and self.choice is None else views.posed
        self.order, self.mirror = views.order, not self.ridge and settings["mirror"]
        self.group = [0] if self.symmetry is None else places_of(self.symmetry.group.name)

    def features(self, rows: Tensor, places: Tensor) -> Tensor:
        """Return features (n, k, D') of the views (n, k) of images."""
        found = self.read(self.tokens[rows[:, None], places])
        if self.mirror:
            other = PRODUCT[MIRROR, places]
            found = torch.stack([found, self.read(self.tokens[rows[:, None], other])]).mean(0)
        return found

    @property
    def key(self) -> tuple[Any, ...]:
        """What the head depends on, of one split."""
        return self.ridge, self.mirror, self.tokens.data_ptr(), *self.group

    def learn(self) -> LinearHead:
        """Solve on all views of the training images."""
        split, each = self.split, torch.tensor(self.group)
        features = self.features(split.train, PRODUCT[each, split.position[:, None]]).flatten(0, 1)
        sums = GramStatistics.of(features, split.labels.repeat_interleave(len(each)), int(split.labels.max()) + 1)
        return solve(sums, self.learner.penalty(sums), standardise=True)

    def looked(self, element: int) -> Tensor:
        """Return which views (n, k) are looked at of test images that an element has transformed."""
        count = len(self.split.test)
        if self.symmetry is None or not self.symmetry.invariant:
            return torch.full((count, 1), element)
        orbit = torch.zeros(D4.order, dtype=torch.bool)
        orbit[PRODUCT[self.group, element]] = True
        order = self.order[self.split.test]
        return order[orbit[order]].reshape(count, -1)[:, : self.symmetry.looked]

    def measure(self, head: LinearHead) -> dict[str, Any]:
        """Return a head's accuracies upright and transformed, consistency, and passes an image."""
        answers: list[Tensor] = []
        before: Tensor | None = None
        for element in range(D4.order):
            looked = self.looked(element)
            alike = before is not None and torch.equal(looked, before)
            found = answers[-1] if alike else head(self.features(self.split.test, looked).mean(1)).argmax(1)
            answers, before = [*answers, found], looked
        right = torch.stack([answer == self.split.truth for answer in answers]).double().mean(1)
        same = torch.stack([answer == answers[0] for answer in answers[1:]]).double().mean()
        figures = {"upright": float(right[0]), "transformed": float(right.mean()), "consistency": float(same)}
        figures["passes"] = looked.shape[1] * (2 if self.mirror else 1)
        return figures | ({} if self.choice is None else {"choice": asdict(self.choice)})


def main(
    config: Annotated[Path, typer.Argument(help="A config of closed forms, as in configs/no_up.")],
    source: Annotated[Path, typer.Option(help="A folder with one folder per class.")],
    weights: Weights,
    cache: Annotated[Path, typer.Option(help="A folder that keeps features.")],
    out: Figures,
    check: Annotated[list[str] | None, typer.Option(help="Run this row of the first split by `equimos run`.")] = None,
    posed: Annotated[
        bool, typer.Option("--posed", help="Prepare images for plain rows as with a group: half of the passes.")
    ] = False,
    changes: Annotated[list[str] | None, typer.Argument(help="Changes of the config: train_transformed=D4.")] = None,
) -> None:
    """Evaluate every row on every split, and write the figures."""
    runs = load_runs(config, [f"data.source={source}", f"backbone.weights={weights}", *(changes or ())])
    first = next(iter(runs.values()))
    made = load_backbone(weights=weights, **first.backbone.args)
    backbone = remembering(made, cache / f"{config.stem}.safetensors")
    found = {name: streams(run)[run.seeds[0]] for name, run in runs.items()}
    parts = [part for stream in found.values() for part in stream.experiences]
    images = sorted({image for part in parts for image in [*part.train_images, *part.test_images]})
    views = Views.of(backbone, images, posed=posed)
    vit: Any = backbone.frozen
    vit.keep()
    rows = {image: number for number, image in enumerate(images)}
    records: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []
    known = {(record["run"], record["row"]) for record in records}
    # The cheapest first: what is there early is whole.
    wanted = [(name, label) for name, run in runs.items() for label in run.methods if (name, label) not in known]
    wanted.sort(key=lambda one: runs[one[0]].methods[one[1]].method != "ridge" and (runs[one[0]].stream.per_class or 0))
    heads: dict[Any, LinearHead] = {}
    for name, label in wanted:
        run = runs[name]
        row = Row(run, label, backbone, views, Split.of(found[name], rows, run))
        key = name, *row.key
        if key not in heads:
            heads = {k: head for k, head in heads.items() if k[0] == name} | {key: row.learn()}
        record = {"run": name, "row": label, "per_class": run.stream.per_class, **row.measure(heads[key])}
        records.append(record)
        print(json.dumps(record), flush=True)
        out.write_text(json.dumps(records, indent=1))
    name, run = next(iter(runs.items()))
    for label in check or ():
        ours = next(r for r in records if r["run"] == name and r["row"] == label)
        _, cells = run_cell(label, run.methods[label], made, found[name], run.seeds[0], transformed=run.transformed)
        theirs = seen_accuracy(cells[0])[-1]
        learning = sum(e.learning_seconds or 0 for e in cells[0].evaluations)
        print(f"{label}: {theirs:.4f} by the run, {ours['upright']:.4f} here; learned in {learning:.1f} s")


if __name__ == "__main__":
    typer.run(main)
