"""What MOS is worth under other readouts: every one from the same trained adapters, beside the same without adapters.

    python benchmarks/mos_readouts.py --images DIR --half report --weights FILE --features CACHE --out mos_readouts.json

DIR holds train/CLASS and test/CLASS, or is a folder of class folders, which a seed cuts into images that are learned
and others (`--half all`). MOS learns a stream once; the learner after every experience, and what the frozen network and
it under every adapter say of all images, are kept in CACHE. Readouts are made from that. What was measured already is
not again. `mos_readouts_report.py` makes tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from arguments import SEEDS, Figures, PerClass, Seeds, Weights
from measuring import records_in, surroundings
from mos_diagnosis import share
from mos_tokens import SETTINGS, Half, Read, Side, SomeImages, TestImages, learned_and_read, stream_of
from real_streams import backbone_of
from several_backbones import strata
from torch import Tensor, nn

from continual.learning.state import learned
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.bases.regression_update import RegressionState
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.retrieval import ensemble, refine
from continual.methods.mos.state import MOSState
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.class_statistics import ClassStatistics, fit
from continual.statistics.head import Head, cosine_scores
from continual.statistics.ridge import GramStatistics
from continual.uncertainty.gaussians import calibrate
from continual.uncertainty.left_out import Rows
from continual.uncertainty.temperature import TEMPERATURES, losses_at
from continual.uncertainty.tempering import score_temperature

WEIGHTS = (0.25, 0.5, 1.0)  #: of an expert, beside the regression


@dataclass(frozen=True)
class Seen:
    """What is known after some experiences, of their classes' images alone, and what regressions say of test images."""

    read: Read
    state: MOSState
    frozen: Tensor  #: (m, C), probabilities of strata on the frozen tokens
    first: Tensor  #: (m, C), on those under the first adapter
    head: Head  #: MOS's
    heat: float  #: its temperature
    plain: Head  #: aligned on frozen features alone
    plain_heat: float
    gain: nn.LayerNorm  #: the network's last

    @property
    def truth(self) -> Tensor:
        return self.read["test"]["labels"]

    @property
    def experience(self) -> Tensor:
        return self.state.experience_of_class

    def features(self, tokens: Tensor) -> Tensor:
        """Return the network's features (..., D) of what was read (..., D'): its last class token, through the norm."""
        width = len(self.gain.weight)
        return tokens[..., -2 * width : -width] * self.gain.weight + self.gain.bias


def until(found: Read, count: int, experience: Tensor) -> Read:
    """Return what was read of the classes of the first `count` experiences, under their adapters."""
    parts: Read = {}
    for side, own in found.items():
        rows = experience[own["labels"]] < count
        parts[side] = {n: t[:count, rows] if n == "under" else t[rows] for n, t in own.items()}
    return parts


def regressed(learner: StrataLearner, both: Tensor, labels: Tensor, experience: Tensor) -> list[RegressionState]:
    """Return what strata has learned after every experience, of tokens (n, 2, D') of images and mirror images."""
    states, state, views = [], RegressionState(), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    for number in range(int(experience.max()) + 1):
        mine, classes = experience[labels] == number, int((experience <= number).sum())
        rows = Rows(both[mine].flatten(0, 1), labels[mine].repeat_interleave(2), 2, 0.5, views)
        sums = GramStatistics.of(rows.features, rows.labels, classes).scaled(0.5).plus(state.sums)
        state = learner.solved(RegressionState(sums=sums, certainty=state.certainty), rows)
        states.append(state)
    return states


def probabilities(state: RegressionState, both: Tensor) -> Tensor:
    """Return strata's probabilities (m, C) of images whose tokens, and their mirror images', are (m, 2, D')."""
    features = both.mean(1)
    found, _ = learned(state.certainty).judge(learned(state.head)(features), features, 1)
    return learned(found)


def plain_head(features: Tensor, labels: Tensor, settings: Any) -> tuple[Head, float]:
    """Return a head aligned on frozen features (n, D), from nothing: what MOS's is without adapters and training.

    Its temperature comes with it.
    """
    statistics = [fit(features[labels == c], settings.statistics, 32) for c in range(int(labels.max()) + 1)]
    empty = Head(features.new_zeros(len(statistics), features.shape[1]), features.new_zeros(len(statistics)))
    draw = generator(settings.seed, "alignment", len(statistics))
    head = align(empty, statistics, AlignmentSettings(batch_size=settings.batch_size), generator=draw)
    return head, temperature(head, statistics)


def temperature(head: Head, statistics: Sequence[ClassStatistics]) -> float:
    """Return what divides the logarithms of a head's softmax to make it calibrated, by what is remembered alone."""
    known = calibrate(statistics, generator(0, "calibration"))
    accuracy = (known.accuracy if known else None) or 0.0

    def decide(features: Tensor, own: Tensor) -> Tensor:
        return head(features).softmax(-1)

    return score_temperature(statistics, accuracy, decide, 1e-4, generator(0, "temperature"))


def within(values: Tensor, own: Tensor) -> Tensor:
    """Return the log-softmax (m, C) of values (m, C) among the classes that are `own` (m, C); 0 for the others."""
    return values.masked_fill(~own, -torch.inf).log_softmax(-1).masked_fill(~own, 0.0)


def local_ridge(x: Tensor, labels: Tensor, z: Tensor) -> Tensor:
    """Return log-probabilities (m, C) by a ridge regression on an experience's tokens (n, D'); asked are z (m, D').

    Images left out say how sure it may be.
    """
    y = torch.nn.functional.one_hot(labels).double()
    centre, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x, z = ((rows - centre) / deviation for rows in (x, z))
    gram = (x @ x.mT).double()
    inverse = torch.linalg.inv(gram + x.shape[1] / 3 * torch.eye(len(x)))
    weights, hat = inverse @ (y - y.mean(0)), gram @ inverse + 1 / len(x)
    fitted, leverage = gram @ weights + y.mean(0), hat.diagonal()[:, None]
    left_out = (fitted - leverage * y) / (1 - leverage)
    scale = TEMPERATURES[losses_at(TEMPERATURES, left_out, labels).argmin()]
    values = (z @ x.mT).double() @ weights + y.mean(0)
    return (values / scale).log_softmax(-1).float()


def experts(seen: Seen, rows: str) -> dict[str, Tensor]:
    """Return log-probabilities (m, C) of every class within its experience, by the expert of that, "on" or "off".

    "on" is MOS's head under the experience's adapter, as it is and at its temperature, and a ridge regression on tokens
    under it; "off" is the same without adapters.
    """
    test, train_, experience = seen.read["test"], seen.read["train"], seen.experience
    head = torch.zeros(len(seen.truth), len(experience))
    cool, ridge = head.clone(), head.clone()
    heat = seen.heat if rows == "on" else seen.plain_heat
    for k in range(seen.state.experiences):
        own, mine = experience == k, experience[train_["labels"]] == k
        tokens_ = test["under"][k] if rows == "on" else test["frozen"][:, 0]
        given = train_["own"] if rows == "on" else train_["frozen"][:, 0]
        said = (seen.head if rows == "on" else seen.plain)(seen.features(tokens_))
        head[:, own] = said[:, own].log_softmax(-1)
        cool[:, own] = (said[:, own] / heat).log_softmax(-1)
        ridge[:, own] = local_ridge(given[mine], train_["labels"][mine] - int(own.nonzero()[0]), tokens_)
    return {"head": head, "calibrated head": cool, "ridge": ridge}


def measures(seen: Seen) -> dict[str, float]:
    """Return every measure after an experience: shares of the test images."""
    state, experience, truth = seen.state, seen.experience, seen.truth
    under = seen.features(seen.read["test"]["under"])
    known = experience[None] == experience[truth][:, None]
    found: dict[str, float] = {}

    def logits_of(rows: Tensor, stacks: Tensor) -> Tensor:
        return seen.head(under[stacks, rows])

    def right(name: str, scores: Tensor) -> Tensor:
        hits = scores.argmax(-1) == truth
        found[name] = share(hits)
        return hits

    cosines = cosine_scores(under[0], learned(state.prototypes).mean)
    mos = refine(experience[cosines.argmax(-1)], logits_of, experience)
    by_mos = right("mos", ensemble(mos.logits, cosines, state.experiences))
    found |= {"mos: experience at first": share(mos.path[:, 0] == experience[truth])}
    found |= {"mos: experience": share(mos.stack == experience[truth])}
    within_known = within(seen.head(under[experience[truth], torch.arange(len(truth))]), known)
    right("mos: experience known", within_known.masked_fill(~known, -torch.inf))
    sure = {"frozen": seen.frozen, "first": seen.first}
    on, off = (experts(seen, side) for side in ("on", "off"))
    for name, p in sure.items():
        logs, asked = p.clamp(min=1e-12).log(), experience[p.argmax(-1)]
        by_strata = right(f"{name}: strata", p)
        found[f"{name}: experience"] = share(asked == experience[truth])
        right(f"{name}: experience known", p.masked_fill(~known, -1))
        found[f"{name}: either right"] = share(by_strata | by_mos)
        refined = refine(asked, logits_of, experience)
        right(f"{name}: stage one", ensemble(refined.logits, cosines, state.experiences))
        right(f"{name}: ensemble", refined.logits.softmax(-1) + p)
        once = logits_of(torch.arange(len(truth)), asked)
        right(f"{name}: ensemble, no refinement", once.softmax(-1) + p)
        plain = seen.plain(seen.features(seen.read["test"]["frozen"][:, 0]))
        right(f"{name}: ensemble, adapters off", plain.softmax(-1) + p)
        pools = {"on": (once, seen.heat), "off": (plain, seen.plain_heat)}
        for weight, (side, (values, heat)) in product(WEIGHTS, pools.items()):
            cooled = (values.log_softmax(-1) / heat).log_softmax(-1)
            right(f"{name}: pool {weight}, adapters {side}", logs + weight * cooled)
            right(f"{name}: raw pool {weight}, adapters {side}", logs + weight * values.log_softmax(-1))
            right(f"{name}: mean {weight}, adapters {side}", p + weight * cooled.exp())
        chosen = experience[None] == asked[:, None]
        for side, every in {"on": on, "off": off}.items():
            for kind, expert in every.items():
                for weight in WEIGHTS:
                    title = f"{name}: {kind} {weight}, adapters {side}"
                    right(f"{title}, every", logs + weight * expert)
                    best = (logs + weight * expert).masked_fill(~chosen, -torch.inf)
                    right(f"{title}, retrieved", best)
                    right(f"{title}, experience known", (logs + weight * expert).masked_fill(~known, -torch.inf))
    return found


def measured(learners: Sequence[MOSLearner], whole: Read) -> list[dict[str, float]]:
    """Return every measure after every experience."""
    last = learners[-1]
    reader, experience = StrataLearner(last.backbone), last.state.experience_of_class
    sides = {
        name: regressed(reader, whole["train"][name], whole["train"]["labels"], experience)
        for name in ("frozen", "first")
    }
    found = []
    for number, learner in enumerate(learners):
        seen = until(whole, number + 1, experience)
        p = {name: probabilities(states[number], seen["test"][name]) for name, states in sides.items()}
        head, gain = learned(learner.state.head), last.backbone.frozen.network.norm
        rest = {"head": head, "heat": temperature(head, learner.state.statistics), "gain": gain}
        now = Seen(seen, learner.state, **p, **rest, plain=head, plain_heat=1.0)
        given = now.features(seen["train"]["frozen"][:, 0]), seen["train"]["labels"]
        plain, heat = plain_head(*given, learner.settings)
        found.append(measures(replace(now, plain=plain, plain_heat=heat)))
    return found


def under_first(whole: Read, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Return what strata makes of frozen tokens, of those under the first adapter and of both side by side.

    It is measured after every experience; `sizes` are their classes.
    """
    experience, found = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), []
    for number in range(len(sizes)):
        seen, own = until(whole, number + 1, experience), {}
        truth = seen["test"]["labels"]
        known = experience[None, : sum(sizes[: number + 1])] == experience[truth][:, None]
        for name, read in {"frozen": ["frozen"], "first": ["first"], "both": ["frozen", "first"]}.items():
            train_, test = (torch.cat([seen[side][one] for one in read], -1) for side in ("train", "test"))
            values = strata(train_, seen["train"]["labels"], test)
            answer = values.argmax(-1)
            own[f"{name}: strata"] = share(answer == truth)
            own[f"{name}: experience"] = share(experience[answer] == experience[truth])
            own[f"{name}: experience known"] = share(values.masked_fill(~known, -torch.inf).argmax(-1) == truth)
        found.append(own)
    return found


def main(
    images: SomeImages,
    weights: Weights,
    features: Annotated[Path, typer.Option(help="A folder where learners are kept, and what they read.")],
    out: Figures,
    half: Half = "tune",
    size: Side = 56,
    classes: int = 9,
    experiences: int = 3,
    per_class: PerClass = 20,
    test: TestImages = 25,
    epochs: int = SETTINGS["epochs"],
    alpha: Annotated[float, typer.Option(help="Merging strength of MOS.")] = 0.1,
    only_first: Annotated[bool, typer.Option(help="Learn the first adapter, and compare what strata reads.")] = False,
    seeds: Seeds = SEEDS,
) -> None:
    """Learn, read, and measure what is not in the file yet."""
    torch.set_num_threads(1)
    backbone, records = backbone_of(weights, size), records_in(out)
    for seed in seeds:
        stream = stream_of(images, half, seed, classes, experiences, per_class, test)
        key = {"data": images.name, "half": half, "per class": per_class, "epochs": epochs, "alpha": alpha}
        if any({**key, "seed": seed}.items() <= r.items() and (only_first or "mos" in r) for r in records):
            continue
        cache = features / "-".join(map(str, key.values()))
        until = 1 if only_first else None
        learners, whole = learned_and_read(backbone, stream, cache, seed, until, epochs=epochs, alpha=alpha)
        about = {**key, "seed": seed, "size": size, "classes": classes, "ran on": surroundings()}
        sizes = [len(e.classes) for e in stream.experiences]
        for number, found in enumerate(under_first(whole, sizes) if only_first else measured(learners, whole), 1):
            records.append({**about, "experience": number, **found})
        out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
