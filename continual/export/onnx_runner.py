"""Run a model that `equimos export` wrote. Needs numpy and onnxruntime; Pillow to read image files.

`equimos export --onnx FOLDER` writes it beside the model, with all that it needs in one file: see
`continual.export.standalone`. In Python:

    Runner("parts.onnx").predict(["photos/0.png"])   # paths, PIL images or arrays (H, W, 3)

or `python onnx_runner.py parts.onnx photos/*.png`, one line of JSON an image, with `error` for one that cannot be
used. Answers have `answer` (the class), `score`, and, where known, `probability` (calibrated), `familiarity`,
`unknown`, `anomaly` (of a single class) and `stack`. Images are prepared as the model learned them. Floats, and
integers other than uint8, are of the range that was learned, or say it: `runner.predict(images, value_range=(0,
4095))`, "unit", "bytes" or "normalised"; else floats are looked at, with a warning. A camera's frames, as arrays, need
no Pillow: they are resized with its weights. HEIC needs pillow-heif, TIFF of many channels tifffile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from continual.data.arrays import (
    as_array,
    channels_last,
    check_finished,
    coloured,
    finished,
    is_float,
    range_among,
    readable,
)
from continual.data.bands import check_pictures
from continual.data.containers import LOOKED_AT, as_batch, image_of, in_order
from continual.data.decoding import EncodedImage, as_rgb, decoded, on_ground, unpacked
from continual.data.framing import Pose, middle, pose_of, sides
from continual.data.ranges import NORMALISED, ValueRange
from continual.errors import InputError

FORMAT = "equimos-onnx"
VERSION = 4  # 1 knew no pose; 2 are of one backbone, 3 of several, 4 of other channels than three


class Runner:
    """One model. `threads` is how many it computes with; 0 takes them all.

    Raises InputError, a ValueError, for a file that `equimos export` did not write.
    """

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it has a kind for each way in which a file can be wrong
            raise InputError(f"{path} is no ONNX model that can be read ({type(error).__name__})") from error
        about = json.loads(self.session.get_modelmeta().custom_metadata_map.get("equimos", "{}"))
        if about.get("format") != FORMAT or about["version"] > VERSION:
            raise InputError(f"{path} is not a model that `equimos export` wrote for this runner")
        self.about: dict[str, Any] = about
        self.classes: list[str | int] = about["classes"]
        parts = _parts(about["preprocessing"])
        self.channels = len(parts[0]["mean"])  #: that an image has
        self.shape = (self.channels * len(parts), *about["preprocessing"]["size"])  #: of a prepared image
        self._outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model's own outputs for prepared images, float32 (B, C, H, W); of K backbones (B, C K, H, W)."""
        found = self.session.run(self._outputs, {"images": np.ascontiguousarray(inputs, np.float32)})
        return dict(zip(self._outputs, found, strict=True))

    def outputs(
        self, images: Any, *, batch_size: int = 8, value_range: ValueRange | None = None
    ) -> dict[str, np.ndarray]:
        """Return the model's own outputs for images, see `predict`."""
        given, parts = inputs(images, self.about, value_range), []
        while batch := [*islice(given, batch_size)]:
            parts.append(self.run(np.stack(batch)))
        if not parts:
            parts.append(self.run(np.zeros((0, *self.shape), np.float32)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def predict(
        self,
        images: Any,
        *,
        false_alarm_rate: float | None = None,
        batch_size: int = 8,
        value_range: ValueRange | None = None,
    ) -> list[dict[str, Any]]:
        """Answer for images: paths, PIL images, arrays (H, W), (H, W, 1), (H, W, 3) or, transparent, (H, W, 4).

        A model of C channels takes arrays (H, W, C), and TIFF and .npy files of as many.

        `value_range` says what the numbers of floats and wide integers mean, see above. `false_alarm_rate`, the share
        of known images that may be called unknown, is the model's own by default. Raises InputError for what the
        learner does not take either, such as a single frame instead of a list of images.
        """
        if len(check_several(images)) == 0:
            return []
        rate = self.about["unknown_rate"] if false_alarm_rate is None else false_alarm_rate
        found = self.outputs(images, batch_size=batch_size, value_range=value_range)
        answers = []
        for row, best in enumerate(found["scores"].argmax(1)):
            answer = {"answer": self.classes[best], "score": float(found["scores"][row, best])}
            if "probabilities" in found:
                answer["probability"] = float(found["probabilities"][row, best])
            if "familiarity" in found:
                answer["familiarity"] = float(found["familiarity"][row])
                answer["unknown"] = answer["familiarity"] <= rate
            if "anomaly" in found:
                answer["anomaly"] = float(found["anomaly"][row])
            if "stack" in found:
                answer["stack"] = int(found["stack"][row])
            answers.append(answer)
        return answers


def inputs(images: Any, about: Mapping[str, Any], value_range: ValueRange | None = None) -> Iterator[np.ndarray]:
    """Yield several images as the model's inputs; raises InputError for what is none, or fits no range."""
    images = check_several(images)
    channels = len(_parts(about["preprocessing"])[0]["mean"])
    images = [image_of(images[place], place) for place in range(len(images))]
    step = max(1, -(-len(images) // LOOKED_AT))
    seen = (image if place % step else unpacked(image, channels) for place, image in enumerate(images))
    arrays = (array for image in seen if (array := as_array(image)) is not None)
    name = range_among(arrays if value_range is None else (), value_range, about.get("value_range"))
    for index, image in enumerate(images):
        yield prepare(image, about["preprocessing"], index, name)


def prepare(image: Any, preprocessing: Mapping[str, Any], index: int = 0, value_range: str | None = None) -> np.ndarray:
    """Turn an image into the model's input, float32 (C, H, W): resize, cut out the centre, normalise.

    `value_range` is the name of what floats and wide integers mean; normalised images are inputs already. For several
    backbones that is done for each, with zeros around smaller inputs: see `continual.data.canvas`.
    """
    parts, size = _parts(preprocessing), preprocessing["size"]
    channels = len(parts[0]["mean"])
    unfolded = unpacked(image, channels)
    where = index if unfolded is image else str(image)
    array = as_array(unfolded)
    if array is not None and is_float(array) and value_range == NORMALISED:
        values, planes = finished(array, channels)[None], sum(len(part["mean"]) for part in parts)
        check_finished(values.shape, bool(np.isfinite(values).all()), planes, size, f"image {where}: ")
        return values[0]
    pixels = _pixels(unfolded, where, value_range, channels)
    return np.concatenate([_canvas(pixels, part, size) for part in parts])


def _parts(preprocessing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how an image is prepared for each backbone."""
    posed = {"posed": preprocessing.get("posed", False)}
    return [{**part, **posed} for part in preprocessing.get("parts", [preprocessing])]


def _canvas(pixels: np.ndarray, preprocessing: Mapping[str, Any], size: Sequence[int]) -> np.ndarray:
    """Return one backbone's input in the middle of zeros, float32 (C, size)."""
    cut = _framed(pixels, preprocessing)
    # As torchvision does: bytes are scaled, and floats cut off where resizing exceeds their range.
    unit = cut.astype(np.float32) * np.float32(1 / 255) if cut.dtype == np.uint8 else np.clip(cut, 0, 1)
    mean, std = (np.asarray(preprocessing[name], np.float32) for name in ("mean", "std"))
    margins = [(have - own) // 2 for have, own in zip(size, cut.shape[:2], strict=True)]
    planes = np.ascontiguousarray(((unit - mean) / std).transpose(2, 0, 1))
    return np.pad(planes, [(0, 0), *((margin, margin) for margin in margins)])


def check_several(images: Any) -> Any:
    """Return images that go by position; raises InputError for what is no sequence of images, or has no order."""
    return as_batch(in_order(images))


def _pixels(image: Any, index: int | str, value_range: str | None, channels: int) -> np.ndarray:
    """Return an image as (H, W, C), uint8 or float32 from 0 to 1."""
    if isinstance(image, str | Path | EncodedImage):
        return _of_channels(np.asarray(decoded(image, value_range=value_range).image), channels)
    if hasattr(image, "getbands"):
        check_pictures(channels)
        try:
            return _of_channels(np.asarray(as_rgb(image, value_range).image), channels)
        except ValueError as error:
            raise InputError(f"image {index} cannot be used: {error}") from None
    values = channels_last(*readable(image, index, value_range, channels))
    if values.shape[2] == 4 != channels:
        values = on_ground(values) if values.dtype == np.uint8 else coloured(values, channels)
    return _of_channels(values, channels)


def _of_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """Return (H, W, C): grey as red, green and blue, or the other way round, as Pillow weighs and rounds them."""
    if values.shape[2] == channels:
        return values
    if values.shape[2] == 1:
        return np.repeat(values, channels, axis=2)
    if values.dtype != np.uint8:
        return coloured(values, channels)
    return ((values @ np.array([[19595], [38470], [7471]]) + 2**15) >> 16).astype(np.uint8)


def _framed(pixels: np.ndarray, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return (size, C): resized and cut out, in the pose of the picture for a model with a group."""
    size, posed = preprocessing["size"], preprocessing.get("posed", False)
    top, left, height, width = middle(pixels.shape[:2])
    pixels = pixels[top : top + height, left : left + width]
    pose = pose_of(pixels, square=size[0] == size[1]) if posed else Pose()
    pixels = np.ascontiguousarray(pose.turn(pixels))
    wanted = sides(pixels.shape[:2], size, preprocessing["crop_pct"], even=posed)
    pixels = _resized(pixels, *wanted, preprocessing["interpolation"])
    top, left = (round((have - want) / 2) for have, want in zip(wanted, size, strict=True))
    return pose.back().turn(pixels[top : top + size[0], left : left + size[1]])


def _resized(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        return resize(pixels, height, width, interpolation)
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        return resize(pixels, height, width, interpolation)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    small = np.asarray(picture.resize((width, height), {"bilinear": 2, "bicubic": 3}[interpolation]))
    return small.reshape(height, width, -1)


def _cubic(x: np.ndarray) -> np.ndarray:
    x, a = np.abs(x), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


#: name -> (weight of a distance in pixels, distance from which it is 0)
FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (lambda x: np.clip(1 - np.abs(x), 0, None), 1.0),
    "bicubic": (_cubic, 2.0),
}


def resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize (H, W, C), columns first, with Pillow's weights of 22 bits: uint8, rounded as there, or floats."""
    if pixels.shape[1] != width:
        across = _weights(pixels.shape[1], width, interpolation)
        pixels = _round(np.einsum("ow,hwc->hoc", across, pixels, optimize=True), pixels.dtype)
    if pixels.shape[0] != height:
        down = _weights(pixels.shape[0], height, interpolation)
        pixels = _round(np.einsum("oh,hwc->owc", down, pixels, optimize=True), pixels.dtype)
    return pixels


def _round(sums: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype != np.uint8:
        return (sums / 2**22).astype(dtype)
    return np.clip(np.floor((sums + 2**21) / 2**22), 0, 255).astype(np.uint8)


def _weights(size: int, wanted: int, interpolation: str) -> np.ndarray:
    """Return whole numbers (wanted, size) whose rows sum to about 2^22; a filter widens where an image shrinks."""
    weigh, reach = FILTERS[interpolation]
    scale = size / wanted
    widened = max(scale, 1.0)
    weights = np.zeros((wanted, size))
    for row in range(wanted):
        centre = (row + 0.5) * scale
        first = max(int(centre - reach * widened + 0.5), 0)
        last = min(int(centre + reach * widened + 0.5), size)
        line = weigh((np.arange(first, last) - centre + 0.5) / widened)
        line = line / line.sum() * 2**22
        weights[row, first:last] = np.trunc(line + np.copysign(0.5, line))
    return weights


def main(words: Sequence[str]) -> int:
    """Answer images; see `print_answers`."""
    if len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return print_answers(Runner(words[0]), words[1:])
    except InputError as error:
        sys.exit(f"error: {error}")


def print_answers(runner: Runner, paths: Sequence[str]) -> int:
    """Print one line of JSON an image; return 1 if any cannot be used."""
    failed = False
    for path in paths:
        try:
            found = runner.predict([path])[0]
        except InputError as error:
            found, failed = {"error": str(error)}, True
        print(json.dumps({"file": path, **found}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
