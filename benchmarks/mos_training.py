"""What learning costs: a training step of MOS, its merge and the alignment, ours and the published procedure's.

    OMP_NUM_THREADS=1 python benchmarks/mos_training.py --weights FILE --out DIR

A step is forward, loss (with the feature contrast), backward, optimizer and merge, on random images: what they show
does not matter for the time. All sides alternate in one process; on a CPU times are processor time. The reference's
alignment is measured for one epoch, which it repeats, and counted as many times. The reference runs in float32, as
published. On a GPU, where the aim is four times its throughput and 45 % of the measured rate:

    python benchmarks/mos_training.py --device cuda --precision bfloat16 --size 224 --batch 256 --out DIR
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
import typer
from arguments import AnyWeights, Device, Name, Out, Size
from measuring import ceilings, forward_flops, interleaved, profile, profiles, ratio, surroundings, table, write
from reference_mos import ReferenceMOS
from reference_mos import align as reference_align
from torch import Tensor

from continual.backbones.loading import Backbone, load_backbone
from continual.data.inputs import as_experience
from continual.losses.base import Batch
from continual.losses.cross_entropy import CrossEntropy
from continual.losses.feature_contrast import feature_contrast
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.training import MOSTraining
from continual.statistics.class_statistics import LowRank, fit
from continual.statistics.head import Head

CLASSES = 5  #: new ones


def training_of(backbone: Backbone, images: Tensor, device: str = "cpu", **settings: Any) -> MOSTraining:
    """Return a training of a third experience: two finished adapters to merge towards, ten earlier classes."""
    values = {"feature_contrast": 0.1, "statistics": "diagonal", "alignment_epochs": 0, **settings}
    learner = MOSLearner(backbone, device=device, epochs=0, **values)
    for first in (0, CLASSES):
        learner.learn(torch.randn(CLASSES, *images.shape[1:]), list(range(first, first + CLASSES)))
    labels = [2 * CLASSES + i % CLASSES for i in range(len(images))]
    training = learner.begin(as_experience(images.cpu(), labels, backbone.preprocessing))
    training.start_epoch(0)
    return training


def our_step(training: MOSTraining, images: Tensor) -> Callable[[], None]:
    """Return one step, as `continual.learning.loop.run` does it."""
    optimizer, labels = training.make_optimizer(), list(training.data.labels)

    def step() -> None:
        loss = training.loss(training.observed(images), labels)
        training.check_loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        training.after_step()

    return step


def reference_step(training: MOSTraining, images: Tensor) -> tuple[Callable[[], None], ReferenceMOS]:
    """Return the published procedure's step on the same problem, and its network."""
    mos = ReferenceMOS(copy.deepcopy(training.extractor.backbone.frozen.network), training.settings.bottleneck).train()
    mos.to(images.device)
    mos.vit.eval()
    for _ in training.before.bank:
        mos.keep(mos.new_stack())
    head = copy.deepcopy(training.head)
    means = torch.stack([one.mean for one in training.before.statistics])
    groups = [{"params": list(mos.working.parameters())}, {"params": list(head.parameters()), "lr": 0.003}]
    optimizer = torch.optim.SGD(groups, lr=0.03, momentum=0.9, weight_decay=5e-4)
    targets = torch.tensor([training.index[label] for label in training.data.labels], device=images.device)

    def step() -> None:
        features = mos.features(images, mos.working, merging=True)
        loss = CrossEntropy()(Batch(features, head(features), targets, training.active))
        loss = loss + 0.1 * feature_contrast(features, means)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mos.merge()

    return step, mos


def steps(
    backbone: Backbone,
    batch: int,
    rounds: int,
    compiled: bool,
    device: str,
    precisions: Sequence[str],
    limits: Mapping[str, float],
) -> tuple[dict[str, Any], str]:
    """Measure the step's variants beside the reference; return the record and a table."""
    side = backbone.frozen.image_size[0]
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    variants: dict[str, dict[str, Any]] = {name: {"precision": name} for name in precisions}
    variants[f"{precisions[0]}, activations again"] = {"precision": precisions[0], "checkpoint_activations": True}
    if compiled:
        variants |= {f"{name}, compiled": {"precision": name, "compile": "inductor"} for name in precisions}
    trainings = {name: training_of(backbone, images, device, **settings) for name, settings in variants.items()}
    ours = trainings[precisions[0]]
    reference, mos = reference_step(ours, images)
    sides = {"reference": reference} | {name: our_step(one, images) for name, one in trainings.items()}
    taken = interleaved(sides, rounds)

    def merges() -> None:
        for _ in range(backbone.depth + 1):
            mos.merge()

    merging = {"reference": merges, "ours": lambda: [ours.after_step() for _ in range(20)]}
    merged = interleaved(merging, rounds)
    merge = {"reference": statistics.median(merged["reference"]), "ours": statistics.median(merged["ours"]) / 20}
    flops = 2 * batch * forward_flops(backbone.frozen.network, ours.settings.bottleneck)
    record = {
        "batch": batch,
        "size": side,
        "seconds": {name: statistics.median(values) for name, values in taken.items()},
        "ratio to the reference": {name: ratio(taken, name, "reference") for name in variants},
        "merge [s]": merge,
        "operations on paper": flops,
        "top entries": {name: profile(one) for name, one in sides.items() if "again" not in name},
    }
    rows = []
    for name in sides:
        rate = flops / record["seconds"][name] / 1e9
        ceiling = limits[f"{'float32' if name == 'reference' else name.split(',')[0]} [GFLOP/s]"]
        rows.append(
            [name, f"{1e3 * record['seconds'][name]:.0f}", f"{ratio(taken, name, 'reference'):.2f}",
             f"{rate:.0f}", f"{rate / ceiling:.0%}"]
        )  # fmt: skip
    text = table(["step", "ms", "ratio to the reference", "GFLOP/s", "of the measured rate"], rows)
    shares = {"ours": merge["ours"] / record["seconds"][precisions[0]]}
    shares["reference"] = merge["reference"] / record["seconds"]["reference"]
    text += (
        f"\nMerging: {1e3 * merge['ours']:.3f} ms, {shares['ours']:.3%} of our step; the reference's "
        f"{backbone.depth + 1} merges {1e3 * merge['reference']:.1f} ms, {shares['reference']:.1%} of its step.\n"
    )
    text += profiles(record["top entries"])
    return record, text


def alignments(classes: int, width: int, batch_size: int, epochs: int, rounds: int) -> tuple[dict[str, Any], str]:
    """Measure the alignment beside the reference's, on full covariances of synthetic features."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=draw) / width**0.5
    known = [fit(torch.randn(2 * width, width, generator=draw) @ mixing) for _ in range(classes)]
    directions = torch.randn(width, 32, generator=draw)
    few = [LowRank(s.count, s.mean, directions, torch.ones(width)) for s in known]
    covariances = [s.covariance_matrix() + 1e-4 * torch.eye(width) for s in known]
    head = Head(torch.zeros(classes, width), torch.zeros(classes))
    taken = interleaved(
        {
            "reference, one epoch": lambda: reference_align(
                head.weight.clone(), head.bias.clone(), [s.mean for s in known], covariances, 1, batch_size
            ),
            "ours": lambda: align(
                head, known, AlignmentSettings(alignment_epochs=epochs, batch_size=batch_size), generator=draw
            ),
            "default": lambda: align(
                head, few, AlignmentSettings(alignment_epochs=epochs, batch_size=batch_size), generator=draw
            ),
        },
        rounds,
    )
    ours, default = statistics.median(taken["ours"]), statistics.median(taken["default"])
    theirs = epochs * statistics.median(taken["reference, one epoch"])
    drawn = 5 * batch_size * classes * epochs
    flops = 2 * drawn * (width**2 + 3 * width * classes) + classes * width**3 / 3
    record = {
        "classes": classes, "width": width, "batch_size": batch_size, "epochs": epochs, "reference [s]": theirs,
        "ours [s]": ours, "times faster": theirs / ours, "low rank [s]": default, "operations on paper": flops,
    }  # fmt: skip
    text = (
        f"\nAlignment, {classes} classes, D = {width}, {epochs} epochs, batch {batch_size}: reference {theirs:.0f} s, "
        f"ours {ours:.1f} s on the same full covariances, {theirs / ours:.0f} times faster, at "
        f"{flops / ours / 1e9:.0f} GFLOP/s. On the default statistics (32 directions) it takes {default:.1f} s.\n"
    )
    return record, text


def main(
    out: Out,
    weights: AnyWeights = None,
    model: Annotated[str, typer.Option(help="Without weights: a timm model.")] = "vit_base_patch16_224.augreg_in21k",
    size: Size = 98,
    batch: int = 16,
    rounds: int = 5,
    device: Device = "cpu",
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; both without.")] = None,
    compiled: Annotated[bool, typer.Option(help="Also the compiled step.")] = True,
    alignment: Annotated[bool, typer.Option(help="Also the alignment, on the CPU.")] = True,
    name: Name = "mos_training",
) -> None:
    """Measure, and write NAME.json and NAME.md."""
    if weights is None:
        import timm

        from continual.backbones.loading import assemble

        args = {"img_size": size}
        backbone = assemble(timm.create_model(model, num_classes=0, **args), model, args)
    else:
        backbone = load_backbone(weights=weights, img_size=size)
    limits = ceilings(device)
    precisions = ["float32", "bfloat16"] if precision is None else [precision]
    record, text = steps(backbone, batch, rounds, compiled, device, precisions, limits)
    result: dict[str, Any] = {"ran on": surroundings(), "ceilings": limits, "step": record}
    if alignment:
        result["alignment"], more = alignments(100, 768, 48, 30, 1)
        text += more
    header = ", ".join(f"{name} {value:.0f}" for name, value in limits.items())
    write(out, name, result, f"Measured ceilings: {header}.\n\n{text}")


if __name__ == "__main__":
    typer.run(main)
