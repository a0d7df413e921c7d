"""What people have corrected is learned into the model file: a plan, a review, a new version, and the way back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from continual.console import count
from continual.data.inputs import Label
from continual.errors import EquimosError, InputError
from continual.lifecycle import contents, locks, versions
from continual.lifecycle.entries import entry
from continual.lifecycle.new_images import Picture, Plan
from continual.lifecycle.review import Review, review
from continual.lifecycle.seen_images import SeenImage, SeenImages
from continual.serving.collected import Collected
from continual.serving.model import Learner, ModelInUse
from continual.serving.uploads import RefusedError

#: pairs of classes shown
SHOWN = 5


@dataclass
class Teaching:
    """The model of a server, and the images that were collected for it.

    All methods take as long as their work does; one at a time changes the model, another is refused.
    """

    model: Path
    in_use: ModelInUse
    collected: Collected
    max_flips: float | None = None  #: more than this share of held-out images that were right and are not: not kept
    weights: Sequence[Path] = ()  #: of the backbone, where they are not in the model file
    last: dict[str, Any] | None = None  #: what was learned last
    _made: list[tuple[int, int]] = field(default_factory=list)  #: versions made here, each with the one before
    _left: locks.Identity = None  #: the model file as it was when this changed it last
    _known: dict[Path, SeenImage] = field(default_factory=dict)  #: entries of images that were looked at
    _busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def learning(self) -> bool:
        """Whether the model is being changed."""
        return self._busy.locked()

    @property
    def undoable(self) -> bool:
        """Whether the version in use was made here."""
        return bool(self._made)

    def plan(self) -> Plan:
        """Return what is collected and not learned under the name that it has; files that are no images are noted."""
        return self._plan(contents.read(self.model))

    def _plan(self, found: contents.ModelFile) -> Plan:
        made = Plan(found.seen, found.classes)
        known = {str(label): label for label in found.classes}
        numbers = bool(found.classes) and isinstance(found.classes[0], int)
        one_of: dict[int, tuple[Path, Label, SeenImage]] = {}
        for path, name in self.collected:
            label = known.get(name, int(name) if numbers and name.isdecimal() else name)
            try:
                seen = self._entry(path, label, found.seen, found.channels)
            except InputError as error:
                made.notes.append(str(error))
                continue
            if other := one_of.get(seen.digest):
                first, second = sorted((path, other[0]), key=_time)
                made.notes.append(f"{first} and {second} are the same image: it is taken for {second.parent.name}")
                if second == other[0]:
                    continue
            one_of[seen.digest] = path, label, seen
        for path, label, seen in one_of.values():
            learned = found.seen.by_digest.get(seen.digest)
            if learned is not None and learned.label == label and not learned.held_out:
                made.learned += 1
            else:
                made.learn.append(Picture(path, replace(seen, label=label, held_out=False)))
        return made

    def _entry(self, path: Path, label: Label, seen: SeenImages, channels: int) -> SeenImage:
        if path not in self._known:
            self._known[path] = entry(path, label, seen, channels=channels)
        return self._known[path]

    def keep(self, images: Sequence[bytes], label: Label) -> int:
        """Store images under a class; return how many. Raises RefusedError, also to move one while others are learned.

        Which images are learned, and as what, is settled when that begins.
        """
        moved = any(self.collected.elsewhere(data, label) for data in images)
        with self._alone() if moved else nullcontext():
            for data in images:
                self.collected.keep(data, label)
        return len(images)

    def learn(self) -> dict[str, Any]:
        """Learn what `plan` says: new classes as one experience, known ones as corrections; return what that did.

        Raises RefusedError, and keeps nothing, where there is nothing to learn, it cannot be learned, or more broke
        than `max_flips` allows, or nothing is there to check that on.
        """
        with self._alone(), locks.claimed(self.model):
            found, before = self._current()
            plan = self._plan(found)
            if not plan.learn:
                raise RefusedError(409, "nothing is collected that is not learned already")
            learner = before.variant(**found.header["settings"])
            _learned(learner, plan.learn)
            outcome = review(before, learner, [], gone=found.held_out, seen=found.seen)
            if broken := outcome.too_much(self.max_flips):
                raise RefusedError(409, f"not kept, {broken}")
            event, number = _event(plan), self._number()
            if locks.identity(self.model) != self._left:
                self._made.clear()  # the way back would lead past what somebody else has made of it since
            seen = found.seen.with_images(picture.entry for picture in plan.learn)
            figures = outcome.figures()
            versions.save(
                learner,
                self.model,
                event,
                embed_backbone=found.embedded,
                seen=seen,
                held_out=found.held_out,
                thumbnails=found.thumbnails,
                figures=figures,
            )
            self._made.append((self._number(), number))
            self._left = locks.identity(self.model)
            settings = {name: getattr(before.settings, name) for name in type(before.settings).at_inference}
            self.in_use.adopt(learner.variant(**settings))
        self.last = {"event": event, "images": len(plan.learn), "review": _words(outcome)}
        return self.last

    def undo(self) -> dict[str, Any]:
        """Go back to the version before the last one that was made here; its images wait to be learned again.

        Raises RefusedError where there is none, or somebody else has changed the model since.
        """
        with self._alone(), locks.claimed(self.model):
            if not self._made:
                raise RefusedError(409, "there is nothing to undo: no version was made by this server")
            made, before = self._made[-1]
            if self._number() != made or locks.identity(self.model) != self._left:
                self._made.clear()
                raise RefusedError(409, "the model was changed elsewhere since: see `equimos history`")
            about = versions.rollback(self.model, before, weights=self.weights).about()
            self._made.pop()
            self._left = locks.identity(self.model)
            self.in_use.refresh()
        kept = f"what version {made} had learned is stored still, and not learned"
        self.last = {"event": f"back to version {before}: {kept}", "images": 0, "review": []}
        return {**self.last, "classes": len(about["classes"])}

    def discard(self) -> int:
        """Move the collected images that are not learned, and were stored here, out of the way; return how many."""
        with self._alone():
            moved = sum(self.collected.discard(picture.path) for picture in self.plan().learn)
            self.last = {
                "event": f"{count(moved, 'image')} moved to {self.collected.said}",
                "images": 0,
                "review": [],
            }
            return moved

    def _current(self) -> tuple[contents.ModelFile, Learner]:
        """Return the model file and the learner of it."""
        for _ in range(2):  # a file that was changed in its place is loaded at the second look
            self.in_use.refresh()
        found, learner = contents.read(self.model), self.in_use.now.learner
        state = found.header["state"]
        if self.in_use.problem or (*learner.classes,) != (*found.classes,) or learner.state.updates != state["updates"]:
            raise RefusedError(409, "the model file has changed, and cannot be used: the server's log says why")
        return found, learner

    def _number(self) -> int:
        return next(version.number for version in versions.versions(self.model) if version.current)

    def _alone(self) -> _Alone:
        return _Alone(self._busy)


class _Alone:
    """Lets one at a time change the model, and says what went wrong as a refusal."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            raise RefusedError(409, "the model is being changed already: wait until that has ended")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.lock.release()
        if isinstance(error, EquimosError):
            raise RefusedError(409, str(error)) from error


def _learned(learner: Learner, pictures: Sequence[Picture]) -> None:
    """Learn new classes together, and correct each known one."""
    known = {*learner.classes}
    new = [picture for picture in pictures if picture.entry.label not in known]
    if new:
        learner.learn([picture.image for picture in new], [picture.entry.label for picture in new])
    for label in dict.fromkeys(picture.entry.label for picture in pictures if picture.entry.label in known):
        learner.correct([picture.image for picture in pictures if picture.entry.label == label], label)


def _time(path: Path) -> int:
    """Return when a file was written: of two, the later one is what somebody has named it last."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _event(plan: Plan) -> str:
    names = dict.fromkeys(picture.entry.label for picture in plan.learn)
    shown = ", ".join(map(str, [*names][:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"learned {count(len(plan.learn), 'image')} from the page: {shown}"


def _words(found: Review) -> list[str]:
    """Say what an update broke, and in which pairs of classes most."""
    pairs = [(*pair, count(n, "image")) for pair, n in found.negative.most_common(SHOWN)]
    pairs += [(was, now, f"{share:.1%}, by statistics") for was, now, share in found.lost[:SHOWN]]
    return [*found.lines(), *(f"{was} is now taken for {now}: {lost}" for was, now, lost in pairs)]
