"""Search for settings with optuna, on a part of the training images: test images take no part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, load_backbone
from continual.data.inputs import Label
from continual.datasets.streams import Experience, Stream, taken
from continual.errors import InputError, nearest
from continual.experiments.config import RunConfig
from continual.experiments.pretraining import pretrained_on
from continual.experiments.run import run_cell, streams
from continual.metrics import METRICS
from continual.options import value
from continual.seeding import generator


@dataclass(frozen=True)
class Range:
    """What a setting is chosen from: numbers from `low` to `high`, or `choices`."""

    low: float = 0
    high: float = 0
    logarithmic: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def parsed(cls, text: str) -> Range:
        """Read `1e-4..1e-1`, `log:1e-4..1e-1`, `1..20` (whole numbers) or `a,b,c`; raises InputError.

        >>> Range.parsed("log:1e-4..0.1").logarithmic, Range.parsed("1..20").whole, Range.parsed("true,false").choices
        (True, True, (True, False))
        """
        plain = text.removeprefix("log:")
        low, dots, high = plain.partition("..")
        if not dots:
            choices = tuple(value(part.strip()) for part in plain.split(",") if part.strip())
            if len(choices) < 2:
                raise InputError(f"{text!r} is nothing to choose from: give LOW..HIGH, log:LOW..HIGH or a,b,c")
            return cls(choices=choices)
        ends = value(low), value(high)
        if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends) or ends[0] >= ends[1]:
            raise InputError(f"{text!r} is no range: give LOW..HIGH, two numbers, the lower one first")
        logarithmic = text.startswith("log:")
        if logarithmic and ends[0] <= 0:
            raise InputError(f"{text!r}: a logarithm needs numbers above 0")
        return cls(ends[0], ends[1], logarithmic, all(isinstance(end, int) for end in ends))

    def suggest(self, trial: Any, name: str) -> Any:
        """Let a trial choose."""
        if self.choices:
            return trial.suggest_categorical(name, list(self.choices))
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.logarithmic)


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and the figure they gave, the mean over seeds."""

    settings: dict[str, Any]
    figure: float


def search(
    config: RunConfig,
    label: str,
    ranges: Mapping[str, Range],
    *,
    trials: int = 20,
    metric: str = "average",
    held_out: float = 0.2,
    done: Callable[[int, Trial], None] = lambda number, trial: None,
) -> list[Trial]:
    """Try settings of one method of a config; return the trials, the best first.

    The first seed decides optuna's choices (TPE: Bergstra et al., NeurIPS 2011). Each trial runs every seed of the
    config, on streams whose test images are `held_out` of the training images of each class. Raises InputError for a
    method, a setting or a metric that is not there, and without optuna.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("search needs the extra: pip install 'equimos[optuna]'") from None
    if label not in config.methods:
        raise InputError(f"no method {label!r} in the config: {nearest(label, config.methods)}")
    row, known = config.methods[label], METRICS.all()
    fields = type(row.make_settings()).model_fields
    if unknown := [name for name in ranges if name not in fields]:
        raise InputError(f"{row.method} has no setting {unknown[0]!r}: {nearest(unknown[0], fields)}")
    if metric not in known or known[metric].higher_is_better is None:
        raise InputError(f"no metric {metric!r} to be made better: {nearest(metric, known)}")
    own = {seed: validation(stream, held_out, seed) for seed, stream in streams(config).items()}
    backbones = _backbones(config, own)

    def objective(trial: Any) -> float:
        settings = {name: choice.suggest(trial, name) for name, choice in ranges.items()}
        tried = row.model_copy(update={"settings": {**row.settings, **settings}, "variants": {}})
        found = []
        for seed, stream in own.items():
            _, cells = run_cell(
                label, tried, backbones[seed], stream, seed, config.device,
                transformed=config.transformed, train_transformed=config.train_transformed,
            )  # fmt: skip
            if (value := known[metric].figure(cells[0])) is None:
                raise InputError(f"{row.method} has no figure {metric!r} on this config: search by another")
            found.append(value)
        figure = sum(found) / len(found)
        done(trial.number, Trial(settings, figure))
        return figure

    better = known[metric].higher_is_better
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=config.seeds[0])
    study = optuna.create_study(direction="maximize" if better else "minimize", sampler=sampler)
    study.optimize(objective, n_trials=trials, catch=())
    tried = [Trial(dict(trial.params), float(trial.value)) for trial in study.trials if trial.value is not None]
    return sorted(tried, key=lambda trial: trial.figure, reverse=bool(better))


def validation(stream: Stream, share: float, seed: int) -> Stream:
    """Return the stream with a share of each class's training images in place of the test images, drawn by the seed.

    A class keeps at least one image to learn; of a single image nothing is held out. Raises InputError where that
    leaves an experience without anything to answer.
    """
    return replace(stream, experiences=tuple(_divided(e, share, seed, n) for n, e in enumerate(stream.experiences)))


def _divided(experience: Experience, share: float, seed: int, number: int) -> Experience:
    places = defaultdict[Label, list[int]](list)
    for place, label in enumerate(experience.train_labels):
        places[label].append(place)
    out: set[int] = set()
    for label, own in places.items():
        draw = generator(seed, "validation", number, str(label))
        count = min(max(1, round(share * len(own))), len(own) - 1)
        out |= {own[place] for place in torch.randperm(len(own), generator=draw).tolist()[:count]}
    if not out:
        raise InputError("there is nothing to search on: every class has a single training image")
    kept = [place for place in range(len(experience.train_labels)) if place not in out]
    train, test = (experience.train_images, experience.train_labels), sorted(out)
    (a, b), (c, d) = taken(*train, kept), taken(*train, test)
    return replace(experience, train_images=a, train_labels=b, test_images=c, test_labels=d)


def _backbones(config: RunConfig, own: Mapping[int, Stream]) -> dict[int, Backbone]:
    """Return the backbone of each seed: one for all, or one trained on its first experience."""
    if config.pretrain is None:
        parts = [load_backbone(n.name, weights=n.weights, **n.args, **n.preprocessing) for n in config.networks]
        return dict.fromkeys(own, side_by_side(parts))
    network = config.networks[0]
    return {
        seed: pretrained_on(stream.experiences[0], network, seed, value_range=stream.value_range)
        for seed, stream in own.items()
    }
