"""The versions of a model file: the one in use, and earlier ones beside it. Each is whole at every moment.

Earlier versions of `parts.safetensors` lie in `parts.safetensors.history/`, named by their numbers; the model
file itself is always the one in use. A new version is written beside it, the old one is kept, and only then does
the new one take its name: a process that is killed in between leaves the old version in use. `save` and `rollback`
alone load torch.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual import files
from continual.errors import InputError, ModelFileError
from continual.learning import model_file
from continual.lifecycle import contents, locks, trial
from continual.lifecycle.seen_images import SeenImages

if TYPE_CHECKING:
    from continual.data.inputs import Label
    from continual.learning.learner import IncrementalLearner
    from continual.lifecycle.held_out_features import HeldOutFeatures
    from continual.lifecycle.thumbnails import Thumbnails

#: how many earlier versions are kept
KEPT = 10


@dataclass(frozen=True)
class Version:
    """One version of a model file."""

    number: int
    path: Path
    current: bool

    def about(self) -> dict[str, Any]:
        """Return number, date (ISO, UTC), what was done, classes and bytes, as JSON values."""
        header, there = model_file.read_header(self.path), self.path.stat()
        notes = header.get("notes") or {}
        written = datetime.fromtimestamp(there.st_mtime, UTC).isoformat(timespec="seconds")
        return {
            "version": self.number,
            "current": self.current,
            "date": notes.get("date", written),
            "event": notes.get("event"),
            "held_out": notes.get("held_out"),
            "classes": header["state"]["classes"],
            "bytes": there.st_size,
        }


def folder_of(model: Path) -> Path:
    """Return where the earlier versions of a model file lie: beside the file itself, wherever a link to it is."""
    model = _itself(model)
    return model.with_name(f"{model.name}.history")


def versions(model: Path) -> list[Version]:
    """Return all versions, oldest first; the one in use may also be an earlier one, after a rollback.

    Raises ModelFileError if there is no such model.
    """
    if not model.is_file():
        raise ModelFileError(f"no model file at {model}: check --model")
    kept = _kept(model)
    current = next((n for n in reversed(kept) if _same(kept[n], model)), max(kept, default=0) + 1)
    paths = {**kept, current: model}
    return [Version(n, paths[n], n == current) for n in sorted(paths)]


def save(
    learner: IncrementalLearner[Any],
    model: Path,
    event: str,
    *,
    embed_backbone: bool,
    seen: SeenImages | None = None,
    held_out: HeldOutFeatures | None = None,
    thumbnails: Thumbnails | None = None,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Make a learner the version in use, and keep the one before; `event` says what was done.

    `seen` are the images it has seen, `held_out` has features of some that are held out, as `seen` says, `thumbnails`
    are pictures of some, and `figures` how it did on those held out. Raises ModelFileError, and changes nothing, where
    that cannot be written.
    """
    seen = seen or SeenImages()
    tensors, about = seen.pack()
    if held_out is not None:
        # Of images that are still held out: not of classes that were forgotten, say.
        tensors |= held_out.only({image.digest for image in seen.images if image.held_out}).pack()
    if thumbnails is not None:
        tensors |= thumbnails.only({image.digest for image in seen.images}).pack()
    learner.trial()
    notes = _notes(event, about) | ({"held_out": dict(figures)} if figures else {})
    replace(model, lambda place: learner.save(place, embed_backbone=embed_backbone, notes=notes, seen=tensors))


def rename(model: Path, event: str, old: Label, new: Label) -> None:
    """Give a class another name in the version in use, and keep the one before; tensors are copied unread.

    Raises InputError for a name that is taken, or one of another type (str, int); ModelFileError as `save` does.
    """
    from continual.learning.header import check_labels

    known = contents.read(model).classes
    check_labels([new])
    if new in known:
        raise InputError(f"there is a class {new!r} already: choose another name, or forget one of the two")
    if type(new) is not type(old):
        raise InputError(f"{new!r} is {type(new).__name__}, but the classes are {type(old).__name__}: use one kind")

    def change(values: dict[str, Any]) -> dict[str, Any]:
        def renamed(names: Sequence[Label]) -> list[Label]:
            return [new if name == old else name for name in names]

        about = (values.get("notes") or {}).get("seen")
        if about is not None:
            forgotten = [name for name in about["forgotten"] if name != new]
            about = {"classes": renamed(about["classes"]), "forgotten": forgotten}
        state = {**values["state"], "classes": renamed(values["state"]["classes"])}
        return {**values, "state": state, "notes": _notes(event, about)}

    replace(model, lambda place: model_file.copy(model, place, change))


def rollback(
    model: Path, number: int | None = None, *, weights: Sequence[Path] = (), remark: Callable[[str], None] | None = None
) -> Version:
    """Make an earlier version, by default the one before, the version in use; return it.

    The version left stays among the others, so that `rollback` to it leads back. Before, its tensors are read and the
    model answers once; where it cannot be asked (see `trial`), `remark` gets the reason. `weights` are its backbone's.
    Raises InputError for a version that is not there, ModelFileError for one that is damaged.
    """
    found = versions(model)
    (now,) = [version.number for version in found if version.current]
    others = {version.number: version.path for version in found if not version.current}
    wanted = max((n for n in others if n < now), default=0) if number is None else number
    if source := others.get(wanted):
        contents.read(source)
        if (unasked := trial.tried(source, weights)) and remark is not None:
            remark(unasked)
        replace(model, partial(_link, source))
        return Version(wanted, model, True)
    said = "no earlier version" if number is None else f"no other version {number}"
    raise InputError(f"{model} is version {now} and has {said}; there are: {', '.join(map(str, others)) or 'none'}")


def knowing(model: Path, label: str) -> tuple[list[Version], set[int], list[Path]]:
    """Return the versions not in use that know a class, the digests of its images, and files that cannot be read.

    Another name it has where most of a class's images are those that were seen under the name asked for.
    """
    found, damaged = list[tuple[Version, contents.ModelFile]](), list[Path]()
    for version in versions(model):
        try:
            found += [] if version.current else [(version, contents.read(version.path))]
        except ModelFileError:
            damaged.append(version.path)
    images = {image.digest for _, file in found for image in file.seen.images if str(image.label) == label}

    def knows(file: contents.ModelFile) -> bool:
        return label in map(str, file.classes) or not file.seen.names_of(images).isdisjoint(file.classes)

    return [version for version, file in found if knows(file)], images, damaged


def purge(model: Path, label: str) -> int:
    """Delete the versions not in use that know a class, see `knowing`; return how many."""
    known, _, _ = knowing(model, label)
    for version in known:
        version.path.unlink()
    return len(known)


def replace(model: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file, and put it in the model's place; what was there becomes an earlier version.

    The new file has the old one's mode. Every name is on the disk before the next step relies on it, so that a power
    cut, too, leaves the old version in use or the new one. Raises ModelFileError, and changes nothing, if that fails or
    the model is not what it was when it was claimed; InputError if another process has claimed it.
    """
    model = _itself(model)
    staged = model.with_name(f".{model.name}.new")
    with locks.claimed(model) as claim:
        try:
            claim.check()
            # What processes that were killed have left behind.
            for litter in [staged, *model.parent.glob(f".{staged.name}.*.tmp")]:
                litter.unlink(missing_ok=True)
            mode = stat.S_IMODE(model.stat().st_mode) if claim.found else None
            if mode is not None:
                staged.touch(0o600)  # nobody else can read it while it is being filled
            write(staged)
            if mode is not None:
                staged.chmod(mode)
            claim.check()
            if claim.found:
                _keep(model)
            claim.check()
            staged.replace(model)
            claim.replaced()
            files.sync_folder(model.parent)
            for old in list(_kept(model).values())[:-KEPT]:
                old.unlink()
        except (ModelFileError, OSError) as error:
            said = str(error).replace(str(staged), str(model))
            said = said if isinstance(error, ModelFileError) else f"cannot write {model}: {said}"
            raise ModelFileError(said) from error
        finally:
            staged.unlink(missing_ok=True)


def _notes(event: str, seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is said of a version in its header."""
    return {"event": event, "date": datetime.now(UTC).isoformat(timespec="seconds"), "seen": seen}


def _itself(model: Path) -> Path:
    """Return the file that a link leads to, so that the link stays when the file is replaced."""
    return Path(os.path.realpath(model))


def _keep(model: Path) -> None:
    (number,) = [version.number for version in versions(model) if version.current]
    place = folder_of(model) / f"{number}.safetensors"
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        _link(model, place)
        files.sync_folder(place.parent)
        files.sync_folder(model.parent)


def _kept(model: Path) -> dict[int, Path]:
    found = {int(path.stem): path for path in folder_of(model).glob("*.safetensors") if path.stem.isdecimal()}
    return dict(sorted(found.items()))


def _link(source: Path, place: Path) -> None:
    """Let `place` be the same file as `source`, or a copy where the file system has no links; whole or not at all."""
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError:
        temporary = place.with_name(f".{place.name}.tmp")
        try:
            shutil.copy2(source, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)


def _same(a: Path, b: Path) -> bool:
    return a.samefile(b) or filecmp.cmp(a, b, shallow=False)
