"""A model card of measured figures: what a model file knows, and how it does on images that it has not learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from continual.backbones import described
from continual.data.decoding import decoded
from continual.data.images import list_folder
from continual.errors import InputError
from continual.escaping import markdown
from continual.learning.learner import IncrementalLearner
from continual.lifecycle import figures
from continual.lifecycle.contents import ModelFile
from continual.metrics.calibration import expected_calibration_error, reliability_table

#: names that are listed of many classes
SHOWN = 200
QUARTERS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


@dataclass(frozen=True)
class Measured:
    """How a model answers for images with labels, all shares of images."""

    images: int
    accuracy: float
    calibration_error: float | None  #: None for methods without probabilities
    false_alarms: float | None  #: called unknown at a rate of 5 %; None where nothing can be called so
    consistency: float  #: answered alike in all four quarter turns


def measure(learner: IncrementalLearner[Any], images: Sequence[Any], labels: Sequence[Any]) -> Measured:
    """Ask a model about images of classes that it knows; raises InputError for a class never learned."""
    truth = learner.indices(labels)
    found = learner.predict(images)
    answers = found.scores.argmax(1)
    right = answers == truth
    error = None
    if found.probabilities is not None:
        sure = found.probabilities.amax(1).clamp(max=1)
        error = expected_calibration_error(reliability_table(sure.numpy(), right.numpy()))
    alarms = None if found.p_value is None else float((found.p_value <= 0.05).float().mean())
    same = right.new_ones(len(right))
    pictures = [decoded(image) if isinstance(image, str | Path) else image for image in images]
    for quarter in QUARTERS:
        same &= learner.predict([_rotated(picture, quarter) for picture in pictures]).scores.argmax(1) == answers
    return Measured(len(images), float(right.float().mean()), error, alarms, float(same.float().mean()))


def _rotated(picture: Any, quarter: Image.Transpose) -> Image.Image:
    image = getattr(picture, "image", picture)
    if not isinstance(image, Image.Image):
        raise InputError("a card is measured on pictures: image files, or PIL images")
    return image.transpose(quarter)


def card(
    found: ModelFile,
    name: str,
    measured: Measured | None = None,
    *,
    license: str | None = None,
    backbone_licenses: Sequence[str | None] = (),
    history: Sequence[dict[str, Any]] = (),
) -> str:
    """Return the card as Markdown, with the header that the hub reads; figures that were not measured are said so."""
    about = found.describe()
    parts = described(about["backbone"])
    classes = [markdown(str(row["name"])) for row in about["classes"]]
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    lines = ["---", "library_name: equimos", "pipeline_tag: image-classification"]
    lines += [f"license: {license}"] if license else []
    lines += ["tags: [continual-learning, image-classification, equimos]", "---", "", f"# {markdown(name)}", ""]
    lines += [
        f"A model of method `{about['method']}` that learned {len(classes)} classes in {about['experiences']} "
        f"experiences ({about['updates']} updates), without keeping their images.",
        "",
        "```python",
        "import continual",
        "",
        f'learner = continual.from_hub("{name}")',
        'print(learner.predict(["photo.jpg"]).labels)',
        "```",
        "",
        "## Measured",
        "",
    ]
    lines += _figures(measured, history)
    lines += ["", "## Backbone", ""]
    known = [*backbone_licenses, *[None] * len(parts)]
    lines += [
        f"- {markdown(part['name'])}, SHA-256 `{part['sha256']}`, licence: {markdown(own or 'not known')}; "
        f"{'its weights are in the file' if found.embedded else 'its weights are not in the file'}"
        for part, own in zip(parts, known, strict=False)
    ]
    lines += ["", f"Licence of what was learned: {markdown(license or 'none was named')}.", ""]
    lines += ["## Classes", "", ", ".join(classes[:SHOWN]) + more, "", "## What it holds", ""]
    pictures = "thumbnails of learned images" if "thumbnails of images" in about["memory_bytes"] else "no image"
    lines += [
        f"Statistics of classes, {pictures}, and a digest and a fingerprint of each image file it has seen: whoever "
        "has an image can find out whether it was learned.",
        "",
    ]
    return "\n".join(lines)


def _figures(measured: Measured | None, history: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    if measured is None:
        lines += ["Nothing was measured for this card: `equimos push --images DIR` measures."]
    else:
        ece, alarms = measured.calibration_error, measured.false_alarms
        rows = [
            ("images, not learned", str(measured.images)),
            ("accuracy", f"{measured.accuracy:.1%}"),
            ("expected calibration error", "no probabilities" if ece is None else f"{ece:.3f}"),
            ("called unknown at a rate of 5 %", "–" if alarms is None else f"{alarms:.1%}"),
            ("answered alike in all four quarter turns", f"{measured.consistency:.1%}"),
        ]
        lines += ["| | |", "| --- | ---: |", *(f"| {what} | {figure} |" for what, figure in rows)]
    kept = [row for row in history if row.get("held_out")]
    if kept:
        lines += ["", "Held-out images after each version:", "", "| version | right | broke | fixed |"]
        lines += ["| ---: | ---: | ---: | ---: |"]
        for row in kept:
            own = row["held_out"]
            cells = figures.right(own), figures.broke(own), figures.fixed(own)
            lines += [f"| {row['version']} | {' | '.join(cell or '–' for cell in cells)} |"]
    return lines


def labelled_folder(folder: Path, known: Sequence[Any]) -> tuple[list[Path], list[Any]]:
    """Return the images of a folder of class folders, and their labels, those of `known` classes alone."""
    names = {str(label): label for label in known}
    paths, labels = list_folder(folder)
    rows = [(path, names[name]) for path, name in zip(paths, labels, strict=True) if name in names]
    if not rows:
        raise InputError(f"{folder} holds no image of a class of the model: one folder per class is read")
    return [path for path, _ in rows], [label for _, label in rows]
