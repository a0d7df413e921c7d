"""Where a merge rule matters: adapters merged in training, learned in turn without merging, and learned apart.

    OMP_NUM_THREADS=1 python benchmarks/merge_rules.py --images DIR --weights FILE --out results.json

Streams of the half of the classes that things are chosen on (see `strata.py`). "Apart" are adapters of sites that began
alike and learned some of the classes each; the others are those of MOS, with alpha as said. Each bank becomes one
adapter by every rule. Measured are: a ridge regression on all images' features under it, which needs the images, or
sums that sites share; nearest prototypes on them; and, of MOS, the answers of the consolidated model, which needs
none. How alike adapters are is the mean cosine of their differences from where they began.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size
from arguments import Weights as WeightsFile
from measuring import spread, surroundings, table
from real_streams import backbone_of, half_of
from torch import Tensor
from torch.nn.functional import cosine_similarity

from continual.adapters.bank import completed, shared
from continual.adapters.base import Weights
from continual.backbones.loading import Backbone
from continual.data.inputs import PreparedImages
from continual.datasets.config import StreamConfig, load_data
from continual.datasets.streams import Stream, make_stream
from continual.experiments.config import DataConfig
from continual.learning.extractor import extract
from continual.merging import RULES
from continual.merging.base import merged
from continual.methods.bases.adapter_training import beginning
from continual.methods.mos.consolidation import consolidated
from continual.methods.mos.learner import MOSLearner
from continual.statistics.head import cosine_scores
from continual.statistics.ridge import GramStatistics, solve

#: bank -> strength of MOS's merging, None where adapters are learned apart
BANKS = {"merged in training": 0.1, "in turn": 0.0, "apart": None}
Bank = Sequence[Weights]


def learned(backbone: Backbone, stream: Stream, alpha: float | None, **settings: Any) -> tuple[MOSLearner, Bank]:
    """Return the learner of a stream and its adapters, or its first site's and those of all sites."""
    own = {"alpha": alpha or 0.0, **settings}
    if alpha is not None:
        learner = MOSLearner(backbone, **own)
        for part in stream.experiences:
            learner.learn(part.train_images, part.train_labels)
        return learner, completed(learner.state.bank)
    sites = [MOSLearner(backbone, **own) for _ in stream.experiences]
    for site, part in zip(sites, stream.experiences, strict=True):
        site.learn(part.train_images, part.train_labels)
    return sites[0], [site.state.bank[0] for site in sites]


def alike(bank: Bank, start: Weights) -> float:
    """Return the mean cosine of adapters' differences from their start, over all pairs."""
    moved = torch.stack([torch.cat([(own[name] - start[name]).flatten() for name in start]) for own in bank])
    between = cosine_similarity(moved[:, None], moved[None], dim=-1)
    return float((between.sum() - len(bank)) / (len(bank) * (len(bank) - 1)))


def rows(bank: Bank, start: Weights, trained: Sequence[str]) -> Iterator[tuple[str, Weights | None]]:
    """Yield the single adapters that are compared, None for none at all."""
    yield "no adapter", None
    yield "first", bank[0]
    yield "last", bank[-1]
    for rule in RULES.all():
        yield rule, merged(rule, bank, start, only=trained)


def features(learner: MOSLearner, adapter: Weights | None, images: Any, labels: Any) -> tuple[Tensor, list[Any]]:
    """Return features (n, D) of images under one adapter, and their labels."""
    served = None if adapter is None else shared(learner.settings.adapter_kind, adapter)
    data = PreparedImages(images, list(labels), learner.backbone.preprocessing, augment=False)
    (found,), names = extract(data, lambda batch, _: [learner.extractor.features(batch, served)], 125, learner.device)
    return found, names


def measured(learner: MOSLearner, adapter: Weights | None, stream: Stream) -> dict[str, float]:
    """Return the accuracies [%] of a ridge regression and of prototypes on all features under an adapter."""
    parts = stream.experiences
    index = {label: number for number, label in enumerate(stream.class_order)}
    train, names = features(
        learner, adapter, [i for e in parts for i in e.train_images], [y for e in parts for y in e.train_labels]
    )
    test, asked = features(
        learner, adapter, [i for e in parts for i in e.test_images], [y for e in parts for y in e.test_labels]
    )
    labels, truth = (torch.tensor([index[name] for name in some]) for some in (names, asked))
    ridge = solve(GramStatistics.of(train, labels, len(index)), train.shape[1] / 3, standardise=True)(test.double())
    prototypes = torch.stack([train[labels == c].mean(0) for c in range(len(index))])
    values = {"ridge": ridge, "prototypes": cosine_scores(test, prototypes)}
    return {name: 100 * float((value.argmax(1) == truth).float().mean()) for name, value in values.items()}


def answered(learner: MOSLearner, rule: str, stream: Stream) -> float:
    """Return the accuracy [%] of MOS as it is, or consolidated by a rule."""
    asked = learner if rule == "retrieval" else consolidated(learner, rule)
    images = [image for part in stream.experiences for image in part.test_images]
    labels = [label for part in stream.experiences for label in part.test_labels]
    found = asked.predict(images).labels
    return 100 * sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)


def main(
    images: Images,
    weights: WeightsFile,
    out: Figures,
    size: Size = 56,
    classes: int = 15,
    experiences: int = 3,
    per_class: PerClass = 20,
    seeds: Seeds = SEEDS,
    half: Annotated[str, typer.Option(help="Which classes: tune or report.")] = "tune",
    kind: Annotated[str, typer.Option(help="Of adapter.")] = "bottleneck",
    rate: Annotated[float, typer.Option(help="The adapters' rate as a share of MOS's.")] = 4.0,
    epochs: int = 4,
) -> None:
    """Measure what is not in the file yet, print a table and keep every figure."""
    torch.set_num_threads(1)
    backbone, train, test = backbone_of(weights, size), *load_data(DataConfig(source=f"{images}/"))
    records = json.loads(out.read_text())["records"] if out.is_file() else []
    config = StreamConfig(
        classes=classes // experiences, only=half_of(images, half), max_classes=classes, per_class=per_class
    )
    about = {"half": half, "classes": classes, "experiences": experiences, "per class": per_class, "size": size}
    about |= {"kind": kind, "rate": rate, "epochs": epochs}
    settings = {"adapter": kind, "adapter_args": {"lr_scale": rate}, "epochs": epochs, "batch_size": 16}
    settings |= {"precision": "bfloat16"}
    for seed in seeds:
        stream = make_stream("merge rules", train, test, config, seed)
        for name, alpha in BANKS.items():
            cell = {**about, "seed": seed, "bank": name}
            if any(cell.items() <= record.items() for record in records):
                continue
            learner, bank = learned(backbone, stream, alpha, seed=seed, **settings)
            trained = list(learner.state.bank[-1])
            begin = beginning(learner.settings, backbone)
            start = {key: begin[key].to(bank[0][key]) for key in trained}
            found = {row: measured(learner, adapter, stream) for row, adapter in rows(bank, start, trained)}
            if alpha is not None:
                found["retrieval"] = {}
                for row in ("retrieval", "first", *RULES.all()):
                    found[row]["consolidated"] = answered(learner, row, stream)
            records.append({**cell, "cosine": alike(bank, start), "rows": found})
            print(records[-1], flush=True)
            out.write_text(json.dumps({"ran on": surroundings(), "records": records}, indent=1) + "\n")
    print(summary([record for record in records if about.items() <= record.items()]))


def summary(records: list[dict[str, Any]]) -> str:
    """Return a table of means over the seeds."""
    body = []
    for name in dict.fromkeys(record["bank"] for record in records):
        own = [record for record in records if record["bank"] == name]
        bank = f"{name} (cosine {spread([record['cosine'] for record in own], '.2f')})"
        for row in own[0]["rows"]:
            found = [record["rows"][row] for record in own]
            kinds = ("ridge", "prototypes", "consolidated")
            body.append([bank, row, *(spread([r[k] for r in found]) if k in found[0] else "–" for k in kinds)])
    return table(["adapters", "one adapter by", "ridge [%]", "prototypes [%]", "MOS consolidated [%]"], body)


if __name__ == "__main__":
    typer.run(main)
