"""How a learner comes to use a concept less: checked, suppressed, allowed again, and ignored while it learns."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.backbones.mlp_rows import with_rows
from continual.errors import InputError, nearest
from continual.learning.asking import Asking
from continual.learning.concept import FEWEST, Concept, ConceptUse, check_pictures, directions, probe
from continual.learning.extractor import Extractor, Progress
from continual.learning.state import S
from continual.learning.surgery import ALPHA, rows_of
from continual.statistics.ignored import STRENGTH, Ignored

#: changes of features that are less than this share of the features are none
NOTHING = 1e-5


class Suppressing(Asking[S]):
    """The learner's operations on concepts. Each either succeeds or leaves the learner as it was."""

    method: ClassVar[str]
    backbone: Backbone
    suppresses: ClassVar[bool] = False  #: whether what is remembered lets a concept be taken out

    @property
    @abstractmethod
    def extractor(self) -> Extractor: ...

    @abstractmethod
    def variant(self, **settings: Any) -> Self: ...

    @abstractmethod
    def _forget_cached(self) -> None: ...

    # What a method defines -----------------------------------------------------------------------------

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        """Return the features (B, K) of prepared images that answers are made of; several where adapters differ."""
        raise NotImplementedError

    def ignoring(self, state: S) -> S:
        """Return a state whose ignored concepts have changed with what follows from that."""
        return state

    # What users call -----------------------------------------------------------------------------------

    def concept_use(self, concept: Concept, *, progress: Progress | None = None, workers: int = 0) -> ConceptUse:
        """Return how much the learner uses a concept: whether its features show it, and how many answers change.

        Raises InputError before anything was learned.
        """
        self._check_learned()
        check_pictures(self.preprocessing.channels)
        asked = self.edited

        def read(images: Tensor) -> Sequence[Tensor]:
            given = images.to(self.device)
            features = asked.concept_features(given)[-1] if asked.suppresses else asked.extractor.features(given)
            return [features, self.score_batch(given).values.to(features.device)]

        (features, values), (others, plain) = self._read(concept, read, progress, workers)
        answers, before = values.argmax(-1), plain.argmax(-1)
        with_it, without = Counter(answers.tolist()), Counter(before.tolist())
        grown = {
            label: with_it[i] / len(answers) - without[i] / len(before) for i, label in enumerate(self.state.classes)
        }
        if concept.paired:
            changed = float((answers != before).float().mean())
        else:
            changed = sum(abs(share) for share in grown.values()) / 2
        towards = dict(sorted(grown.items(), key=lambda pair: -pair[1]))
        return ConceptUse(concept.name, len(answers), probe(features, others), changed, concept.paired, towards)

    def suppress(
        self,
        concept: Concept,
        strength: float | None = None,
        *,
        edit: Literal["head", "mlp"] = "head",
        progress: Progress | None = None,
        workers: int = 0,
    ) -> None:
        """Let answers follow a concept less, by a penalty on how much it changes their values; later ones keep it.

        Nothing is trained, and no image that was learned is needed: sums and class statistics say enough. A concept of
        the same name is replaced; `allow` takes it back. `strength` is gamma, 10 by default. Raises InputError for
        methods that remember no such thing, and for a concept that changes no feature.

        With `edit="mlp"`, which is experimental, it is the backbone that answers which is edited, as in Model Surgery,
        and `strength` is alpha (see `surgery.rows_of`), of either sign. What is remembered, and what later experiences
        learn, are features of the backbone as it was. Raises BackboneError for one that cannot be edited so, InputError
        for methods whose answers do not change with it.
        """
        check_pictures(self.preprocessing.channels)
        if edit not in ("head", "mlp"):
            raise InputError(f"what is edited is the 'head' or the 'mlp', not {edit!r}")
        if edit == "mlp":
            self._edit_backbone(concept, ALPHA if strength is None else strength, progress, workers)
            return
        strength = STRENGTH if strength is None else strength
        if not 0 < strength < float("inf"):
            raise InputError(f"strength is a number above 0, got {strength}")
        if not self.suppresses:
            began = ", or begin with learn(..., ignoring=concept)" * self._trains_readers
            raise InputError(
                f"{self.method} does not say how a concept is taken out of what it remembers: take strata, ridge, "
                f"ranpac, mos or slca{began}"
            )
        self._check_learned()
        read = self._read(concept, lambda x: self.concept_features(x.to(self.device)), progress, workers)
        rows = [concept.changes(*pair) for pair in zip(*read, strict=True)]
        if max(float(own.abs().max()) for own in rows) <= NOTHING * max(float(own.abs().max()) for own in read[1]):
            raise InputError(f"{concept.name} changes no feature of these images: there is nothing to suppress")
        known = self._ignored(concept.name)
        self.state = self._with(replace(known, strength=strength, rows=torch.cat(rows).cpu().contiguous()))

    @property
    def edited(self) -> Self:
        """The learner that answers: this one, or one on a backbone in which rows of MLPs are edited."""
        ignored = self.state.ignored or ()
        if not (edits := [one.mlp for one in ignored if one.mlp is not None]):
            return self
        made_of = (self.state, self.settings, self.backbone)
        known = vars(self).get("_edited")
        if known is None or any(own is not before for own, before in zip(made_of, known[0], strict=True)):
            other = copy.copy(self)
            other._forget_cached()
            other.backbone = with_rows(self.backbone, edits)
            other.state = replace(self.state, ignored=tuple(replace(one, mlp=None) for one in ignored))
            known = self._edited = (made_of, other)
        return known[1]

    def _edit_backbone(self, concept: Concept, alpha: float, progress: Progress | None, workers: int) -> None:
        """Suppress a concept by an edit of the backbone that answers."""
        if not 0 < abs(alpha) < float("inf"):
            raise InputError(f"the strength of an edit of MLPs is a number other than 0, got {alpha}")
        self._check_learned()
        options = {"value_range": self.state.value_range, "batch_size": self.settings.eval_batch_size}
        rows = rows_of(concept, self.extractor.untransformed, alpha, progress=progress, workers=workers, **options)
        if not rows.step.any():
            raise InputError(f"{concept.name} changes no token of these images: there is nothing to suppress")
        after = self.variant()
        after.state = replace(self.state, ignored=self._beside(replace(self._ignored(concept.name), mlp=rows)))
        present, absent = ([images[i] for i in range(FEWEST)] for images in (concept.present, concept.absent))
        few = replace(concept, present=present, absent=absent)
        before, now = (one._read(few, lambda x, one=one: [one.score_batch(x).values], None, 0) for one in (self, after))
        if all(torch.equal(*pair) for pair in zip(before[0], now[0], strict=True)):
            raise InputError(
                f"an edit of the backbone's MLPs changes no answer of {self.method}, which answers by weights of its "
                "own: leave the edit to the head"
            )
        self.state = after.state

    def allow(self, name: str) -> None:
        """Let answers follow a concept again, as if it had never been suppressed: the opposite of `suppress`.

        What adapters were trained without stays so. Raises InputError for a name that is not suppressed.
        """
        ignored = self.state.ignored or ()
        rest = tuple(one for one in ignored if one.name != name)
        if len(rest) == len(ignored):
            known = [one.name for one in ignored]
            raise InputError(f"no concept {name!r} is suppressed: {nearest(name, known) if known else 'there is none'}")
        self.state = self.ignoring(replace(self.state, ignored=rest or None))

    # What learning with a concept needs ---------------------------------------------------------------

    def to_ignore(self, concept: Concept, progress: Progress | None = None, workers: int = 0) -> Self:
        """Return a learner that will train without following a concept.

        Raises InputError for methods that neither remember what `suppress` needs, nor train adapters that read tokens.
        """
        check_pictures(self.preprocessing.channels)
        reads = self._trains_readers
        if not (reads or self.suppresses):
            raise InputError(
                f"{self.method} cannot ignore a concept: take strata, ridge, ranpac, mos, slca or finetune"
            )
        probe = self.variant()
        if reads:
            options = {"batch_size": self.settings.eval_batch_size, "progress": progress, "workers": workers}
            blocks, final = directions(concept, self.extractor.untransformed, **options)
            new = Ignored(concept.name, STRENGTH, None, blocks, final, self._ignored(concept.name).mlp)
            probe.state = probe._with(new, solve=False)
        return probe

    @property
    def _trains_readers(self) -> bool:
        """Whether it trains adapters that read tokens, from which a direction can be taken out."""
        kind = getattr(self.settings, "adapter_kind", None) if getattr(self.settings, "epochs", 0) else None
        return kind is not None and kind.token_readers and self.extractor.backbone.frozen.has_blocks

    def _with(self, new: Ignored, *, solve: bool = True) -> S:
        state = replace(self.state, ignored=self._beside(new))
        return self.ignoring(state) if solve else state

    def _beside(self, new: Ignored) -> tuple[Ignored, ...]:
        """Return what is ignored with a new concept, or one in the place of that of its name."""
        return (*(one for one in self.state.ignored or () if one.name != new.name), new)

    def _ignored(self, name: str) -> Ignored:
        """Return what is ignored by that name, or nothing of it yet."""
        return next((one for one in self.state.ignored or () if one.name == name), Ignored(name, STRENGTH))

    def _check_learned(self) -> None:
        if not self.state.classes:
            raise InputError("nothing has been learned yet: call learn first")

    def _read(self, concept: Concept, read: Any, progress: Progress | None, workers: int) -> Any:
        return concept.read(
            read, self.preprocessing, self.device, value_range=self.state.value_range,
            batch_size=self.settings.eval_batch_size, progress=progress, workers=workers,
        )  # fmt: skip
