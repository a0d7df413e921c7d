"""What an update breaks and fixes, before it is accepted: on held-out images, else from class statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from continual.console import count
from continual.data.inputs import Label
from continual.learning.extractor import Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.state import Simulation
from continual.lifecycle.held_out_features import HeldOutFeatures
from continual.lifecycle.seen_images import SeenImages
from continual.seeding import generator

Learner = IncrementalLearner[Any]

#: features drawn per class of which no held-out image is here
DRAWN = 500


@dataclass
class Review:
    """Answers of the model before an update and after it."""

    truth: list[Label] = field(default_factory=list)  #: of the held-out images
    old: list[Label | None] = field(default_factory=list)  #: answers before the update; None for new classes
    new: list[Label] = field(default_factory=list)  #: answers after it
    gone: int = 0  #: of these images are gone, and were answered by features that were kept
    simulated: dict[Label, float] = field(default_factory=dict)  #: shares of features right before and wrong now
    lost_to: Counter[tuple[Label, Label]] = field(default_factory=Counter)  #: of those, drawn features by class pair
    unjudged: list[Label] = field(default_factory=list)  #: classes known before of which nothing can be said

    @property
    def negative(self) -> Counter[tuple[Label, Label]]:
        """Images that were answered right and are not now, by (class, what they are taken for)."""
        rows = zip(self.truth, self.old, self.new, strict=True)
        return Counter((truth, new) for truth, old, new in rows if old == truth != new)

    @property
    def positive(self) -> int:
        """How many images of classes known before were answered wrong and are right now."""
        rows = zip(self.truth, self.old, self.new, strict=True)
        return sum(old is not None and old != truth == new for truth, old, new in rows)

    @property
    def lost(self) -> list[tuple[Label, Label, float]]:
        """Pairs of classes with the share of answers lost by class statistics, the largest first; 1 % is noise."""
        return [(*pair, n / DRAWN) for pair, n in self.lost_to.most_common() if n > DRAWN // 100]

    def lines(self, advice: str = "") -> list[str]:
        """Say what broke in sentences; `advice` is what would help where nothing can be said of a class."""

        def right(answers: Sequence[Label | None], rows: Sequence[int]) -> str:
            return f"{sum(answers[i] == self.truth[i] for i in rows) / len(rows):.1%}"

        said = []
        known = [i for i, old in enumerate(self.old) if old is not None]
        fresh = [i for i, old in enumerate(self.old) if old is None]
        if known:
            said.append(
                f"held-out images of classes known before: {right(self.new, known)} of {len(known)} right, "
                f"{right(self.old, known)} before; {sum(self.negative.values())} broke, {self.positive} fixed"
            )
        if self.gone:
            said.append(f"{count(self.gone, 'image')} of them are gone, and judged by the features that were kept")
        if fresh:
            said.append(f"held-out images of new classes: {right(self.new, fresh)} of {len(fresh)} right")
        if self.simulated:
            said.append(
                f"no held-out image is here of {count(len(self.simulated), 'class')} known before; by their statistics "
                f"about {self.estimated:.1%} of the answers broke (an estimate)"
            )
        if self.unjudged:
            none = (
                f"nothing can be said of {count(len(self.unjudged), 'class')} known before: no held-out image is here"
            )
            said.append(f"{none}. {advice}" if advice else none)
        return said

    def shares_lost(self) -> list[float]:
        """Return the share of negative flips among images of classes known before, measured and simulated."""
        before = self.known_before
        measured = [sum(self.negative.values()) / before] if before else []
        return measured + ([self.estimated] if self.simulated else [])

    @property
    def known_before(self) -> int:
        """How many held-out images are of classes known before: negative flips are counted among these."""
        return sum(old is not None for old in self.old)

    @property
    def estimated(self) -> float:
        """The share of answers that broke by class statistics, mean over the classes that are `simulated`, if any."""
        return sum(self.simulated.values()) / len(self.simulated)

    def too_much(self, max_flips: float | None, keeping: str | None = None) -> str | None:
        """Say why an update is refused, if it is, and which option would keep more answers."""
        if max_flips is None:
            return None
        if not (lost := self.shares_lost()):
            return "for there is nothing to check --max-flips on: no held-out images, and no class statistics"
        if max(lost) <= max_flips:
            return None
        guessed = ", by an estimate" if self.simulated and max(lost) == lost[-1] else ""
        more = f"; {keeping} holds the head to the answers it gave" if keeping else ""
        return f"for {max(lost):.1%} of the answers broke{guessed} (--max-flips {max_flips}){more}"

    def figures(self) -> dict[str, Any]:
        """Return what is kept with the version; empty where nothing was measured or estimated.

        Flips are counted among those images that are of classes `known_before`, and are None where there are none.
        `estimate` says of how many `classes` no held-out image was there, and the mean share of answers that broke in
        them by class statistics.
        """
        if not (self.truth or self.simulated):
            return {}
        right = sum(new == truth for new, truth in zip(self.new, self.truth, strict=True))
        estimate = {"classes": len(self.simulated), "broken": self.estimated} if self.simulated else None
        return {
            "images": len(self.truth),
            "accuracy": right / len(self.truth) if self.truth else None,
            "known_before": self.known_before,
            "negative_flips": sum(self.negative.values()) if self.known_before else None,
            "positive_flips": self.positive if self.known_before else None,
            "estimate": estimate,
        }


def review(
    before: Learner,
    after: Learner,
    held_out: Sequence[tuple[Any, Label]],
    *,
    gone: HeldOutFeatures | None = None,
    seen: SeenImages | None = None,
    simulation: Simulation | None = None,
    progress: Progress | None = None,
    workers: int = 0,
) -> Review:
    """Ask both models about held-out images, and about features of classes of which none is here.

    Of images that are `gone`, and whose classes `seen` knows, features may have been kept. For classes of which
    there is neither, the same answers are drawn for both models, see `IncrementalLearner.simulation`. Those of MOS are
    for features that lie where the class's own images were trained to lie: real images fare worse. For two backbones,
    or two ways to prepare images, the port's `simulation` is to be given, see `PortReport`.
    """
    old_way, new_way = ((one.backbone.sha256, one.backbone.preprocessing) for one in (before, after))
    found, same = Review(), old_way == new_way
    cache = FeatureCache() if same else None
    images, known = [image for image, _ in held_out], set(before.classes)
    if images:
        options: dict[str, Any] = {"workers": workers, "cache": cache}
        found.truth = [label for _, label in held_out]
        old = [image for image, label in held_out if label in known]
        answers = iter(before.predict(old, **options).labels if old else ())
        found.old = [next(answers) if label in known else None for label in found.truth]
        found.new = after.predict(images, progress=progress, **options).labels
    if gone is not None and seen is not None:
        found.gone = len(gone.digests)
        found.truth += gone.labels(seen)
        found.old += gone.answers(before)
        found.new += gone.answers(after)
    rest = [(index, label) for index, label in enumerate(before.classes) if label not in found.truth]
    simulate = before.simulation(after) if rest and same else simulation
    for index, label in rest:
        if simulate is None:
            found.unjudged.append(label)
            continue
        was, now = simulate(index, DRAWN, generator(0, "review", index, device=before.device))
        lost = (was == index) & (now != index)
        found.simulated[label] = float(lost.float().mean())
        found.lost_to.update((label, after.classes[answer]) for answer in now[lost].tolist())
    return found
