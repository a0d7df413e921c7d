"""What a run would do, checked without doing it: data, weights, stream, and how much work it is."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from pathlib import Path

from continual.avalanche.external import find_method
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, check_tag, in_cache, load_backbone
from continual.console import count, size
from continual.datasets.streams import Stream
from continual.experiments.config import BackboneConfig, MethodConfig, RunConfig
from continual.experiments.pretraining import untrained
from continual.experiments.run import check_methods, streams
from continual.experiments.run_folder import RunFolder


def plan(config: RunConfig, out: Path) -> list[str]:
    """Return the plan in lines; raises InputError or BackboneError for what would make the run fail. Writes nothing."""
    by_seed = streams(config)
    stream = by_seed[config.seeds[0]]
    said, networks = zip(*map(_backbone, config.networks), strict=True)
    backbone = side_by_side(networks)
    check_methods(config, backbone)
    folder = RunFolder(out)
    done = sum(folder.cell(label, seed).read() is not None for label in config.methods for seed in config.seeds)
    lines = [
        f"{config.title}: {_shape(stream)}",
        *said,
        f"{count(len(config.methods), 'method')} x {count(len(config.seeds), 'seed')} on {config.device}, {done} of "
        f"{len(config.methods) * len(config.seeds)} cells finished; results in {out}",
    ]
    return lines + [f"{label}: {_work(row, stream, backbone)}" for label, row in config.methods.items()]


def _shape(stream: Stream) -> str:
    sizes = Counter(len(e.classes) for e in stream.experiences)
    shape = ", ".join(f"{n} of {count(classes, 'class')}" for classes, n in sizes.items())
    train = sum(len(e.train_labels) for e in stream.experiences)
    test = sum(len(e.test_labels) for e in stream.experiences)
    return f"{count(len(stream.experiences), 'experience')} ({shape}), {train} training and {test} test images"


def _backbone(config: BackboneConfig) -> tuple[str, Backbone]:
    """Return what is said of the backbone, and the backbone, or one like it that is not trained yet."""
    if config.weights is not None:
        made = load_backbone(config.name, weights=config.weights, **config.args, **config.preprocessing)
        return f"backbone {made.name}, weights in {config.weights} ({size(config.weights.stat().st_size)})", made
    assert config.name is not None
    if config.pretrain is not None:
        said = f"trained on the first experience for {count(config.pretrain.epochs, 'epoch')}, once per seed"
    else:
        check_tag(config.name)
        said = "weights in the hub's cache" if in_cache(config.name) else "weights to be downloaded from the hub"
    return f"backbone {config.name}, {said}", untrained(config)


def _work(row: MethodConfig, stream: Stream, backbone: Backbone) -> str:
    """Say how many images go through the backbone, and how many bytes an adapter has."""
    settings = row.make_settings()
    epochs = getattr(settings, "epochs", 0)
    counts = [len(e.train_labels) for e in stream.experiences]
    # What keeps images learns those of earlier experiences again.
    trained = epochs * sum(counts if find_method(row.method).exemplar_free else accumulate(counts))
    asked = (1 + len(row.variants)) * sum(accumulate(len(e.test_labels) for e in stream.experiences))
    text = f"at most {trained} images trained on ({count(epochs, 'epoch')}), " if epochs else "nothing trained, "
    text += f"{asked} images answered"
    if epochs and (kind := getattr(settings, "adapter_kind", None)):
        text += f", {size(4 * kind.numbers(backbone.frozen.shapes))} per adapter"
    return text
