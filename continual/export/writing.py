"""Write a learner as an ONNX file, once it has been seen to answer as PyTorch does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from continual import files
from continual.backbones import described
from continual.data.bands import pictures
from continual.data.inputs import Label
from continual.errors import InputError
from continual.export.graphs import exact, graph
from continual.export.int8 import milliseconds, quantised
from continual.export.learnable import check_replaced, graph_with_views, readings, write_sums
from continual.export.onnx_runner import FILTERS, FORMAT, VERSION, Runner, resize
from continual.learning import model_file
from continual.learning.extractor import Progress
from continual.learning.learner import IncrementalLearner

TOLERANCE = 1e-3  #: largest difference of a score
SHARE = 0.999  #: of the images must be within it, and be given the same class

Learner = IncrementalLearner[Any]


@dataclass(frozen=True)
class Int8:
    """What a backbone in 8 bits costs and saves, beside the same model in float32."""

    answers: tuple[Label, ...]  #: for the images that the model in float32 was compared on
    same_answers: int  #: of these, as PyTorch's
    largest: float  #: the largest difference of any score
    float_bytes: int
    bytes: int
    float_milliseconds: float  #: the median of one image, here
    milliseconds: float


@dataclass(frozen=True)
class Agreement:
    """How the answers of an exported model compare with those of PyTorch in float32."""

    images: int
    same_answers: int
    same_stacks: int | None  #: None for methods without stacks
    within: int  #: images all of whose scores differ by at most TOLERANCE
    largest: float  #: the largest difference of any score
    answers: tuple[Label, ...]  #: the exported model's
    int8: Int8 | None = None

    @property
    def holds(self) -> bool:
        """Whether it is the same model."""
        return min(self.same_answers, self.within) >= SHARE * self.images


def export_onnx(
    learner: Learner,
    path: str | Path,
    *,
    images: Sequence[Any] | None = None,
    false_alarm_rate: float = 0.05,
    int8: bool = False,
    learnable: bool = False,
    progress: Progress | None = None,
) -> Agreement:
    """Write a learner to one ONNX file, with its classes, preprocessing, temperature and `false_alarm_rate` inside.

    The graph computes in float32, retrieves stacks exactly and looks at all views, whatever the learner's precision,
    `early_exit` and `passes`; see
    `continual.export.onnx_runner` for how to ask it. Before it is put at `path`, its answers for `images` (as
    `predict` takes them; by default a few synthetic ones) are compared with the learner's.

    With `int8`, that comparison is made first, and what is then written has the backbone's weights in 8 bits (see
    `continual.export.int8`); the `Int8` in the result says what that cost.

    A `learnable` model comes with its sums in a file beside it, PATH.sums.npz, with which
    `continual.export.onnx_learner` adds and corrects classes without PyTorch.

    Raises InputError, and writes nothing, for a method or preprocessing that cannot be exported and where the
    answers differ; ModelFileError if `path` cannot be written.
    """
    path = Path(path)
    if not learner.classes:
        raise InputError("nothing has been learned yet: call learn first")
    if learner.device.type != "cpu":
        raise InputError(f"export works on the CPU, but the learner is on {learner.device}: load it with device='cpu'")
    if not 0 < false_alarm_rate < 1:
        raise InputError(f"false_alarm_rate is a share of images above 0 and below 1, got {false_alarm_rate}")
    for prepared in (part.preprocessing for part in learner.backbone.parts):
        if prepared.interpolation not in FILTERS or prepared.crop_pct > 1:
            raise InputError(
                f"cannot export preprocessing with interpolation={prepared.interpolation} and "
                f"crop_pct={prepared.crop_pct}: the runner knows {' and '.join(FILTERS)}, and crops of at most the "
                "image"
            )
    if learnable and int8:
        raise InputError("features in 8 bits are not those that were learned: leave out int8, or learnable")
    plain = exact(learner)
    if learnable:
        readings(plain)
        check_replaced(plain, path.with_suffix(".sums.npz"))
    try:
        model = graph_with_views(plain) if learnable else graph(plain.edited)
    except InputError as error:
        raise InputError(f"a model of method {learner.method!r} {error}") from error
    entry = model.metadata_props.add()
    entry.key, entry.value = "equimos", json.dumps(_about(learner, false_alarm_rate))
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise InputError(f"the model has {model.ByteSize() / 2**30:.1f} GiB: one ONNX file holds less than 2")
    onnx.checker.check_model(model, full_check=True)
    prepared = learner.preprocessing
    given = made_up(max(prepared.size), channels=prepared.channels) if images is None else images
    with files.written(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        found = compare(plain, Runner(temporary), given, progress)
        if not found.holds:
            raise InputError(
                f"the exported graph does not answer as the model does: {found.same_answers} of {found.images} answers "
                f"are the same, and scores differ by up to {found.largest:.1g}; it was not written"
            )
        if learnable:
            write_sums(plain, path.with_suffix(".sums.npz"))
        if int8:
            return replace(found, int8=_shrink(model, temporary, plain, given, progress))
    return found


def _shrink(model: Any, path: Path, learner: Learner, images: Sequence[Any], progress: Progress | None) -> Int8:
    """Put the model in 8 bits in the place of the one at `path`."""
    before, size = Runner(path), path.stat().st_size
    small = quantised(model)
    path.write_bytes(small.SerializeToString())
    after = Runner(path)
    times = milliseconds(before, after)
    found = compare(learner, after, images, progress)
    return Int8(found.answers, found.same_answers, found.largest, size, path.stat().st_size, *times)


def compare(learner: Learner, runner: Runner, images: Sequence[Any], progress: Progress | None = None) -> Agreement:
    """Ask both for the same images (paths, PIL images, arrays)."""
    ours = learner.predict(images, progress=progress)
    theirs = runner.outputs(images)
    best, differences = theirs["scores"].argmax(1), np.abs(ours.scores.numpy() - theirs["scores"]).max(1)
    same, within = (ours.scores.argmax(1).numpy() == best).sum(), (differences <= TOLERANCE).sum()
    asked = None if ours.stack is None else theirs.get("stack")
    stacks = None if asked is None or ours.stack is None else int((ours.stack.numpy() == asked).sum())
    answers = tuple(learner.classes[place] for place in best)
    return Agreement(len(images), int(same), stacks, int(within), float(differences.max()), answers)


def made_up(side: int, count: int = 8, channels: int = 3) -> list[Any]:
    """Return images of soft random colours, wide, tall and square, always the same; arrays where they are no pictures.

    Arrays are uint8 (H, W, C).
    """
    draw = np.random.default_rng(0)
    shapes = [(side, side), (2 * side, side), (side, side + 7), (side // 2 + 1, side)]
    bands = 3 if pictures(channels) else channels
    noise = [draw.integers(0, 256, (4, 4, bands), dtype=np.uint8) for _ in range(count)]
    sizes = [shapes[n % len(shapes)] for n in range(count)]
    if not pictures(channels):
        return [resize(small, *size[::-1], "bicubic") for small, size in zip(noise, sizes, strict=True)]
    seen = [Image.fromarray(small) for small in noise]
    return [small.resize(size, Image.Resampling.BICUBIC) for small, size in zip(seen, sizes, strict=True)]


def _about(learner: Learner, false_alarm_rate: float) -> dict[str, Any]:
    """What the runner has to know, and where the model comes from."""
    backbones = [
        {k: part[k] for k in ("name", "model_args", "sha256")} for part in described(learner.backbone.describe())
    ]
    several = len(backbones) > 1
    return {
        "format": FORMAT,
        "version": VERSION if learner.preprocessing.channels != 3 else 3 if several else 2,
        "method": learner.method,
        "classes": list(learner.classes),
        "class_experience": list(learner.state.class_experience),
        "unknown_rate": false_alarm_rate,
        "temperature": getattr(getattr(learner.state, "calibration", None), "temperature", None),
        "value_range": learner.state.value_range,
        "preprocessing": {**asdict(learner.preprocessing), "posed": learner.preprocessing.posed},
        **({"backbones": backbones} if several else {"backbone": backbones[0]}),
        "versions": model_file.versions(),
    }
