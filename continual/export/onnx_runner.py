"""Run a model that `equimos export` wrote. Needs numpy and onnxruntime; Pillow to read image files.

`equimos export --onnx FOLDER` writes it beside the model, with all that it needs in one file: see
`continual.export.standalone`. In Python:

    runner = Runner("parts.onnx")
    runner.predict(["photos/0.png"])   # paths, PIL images or uint8 arrays (H, W, 3)

or `python onnx_runner.py parts.onnx photos/*.png`, one line of JSON an image. Each answer is a dict: `answer` (the
class), `score`, and, where the model has them, `probability` (calibrated), `familiarity`, `unknown` and `stack`.
Images are read, rotated, laid on white, resized and cut out as the model learned them. A camera's frames, as arrays,
need no Pillow: without it they are resized here, with its weights and rounding, columns first (some releases of it take
the rows first, which is not the same to the last bit). HEIC files need pillow-heif.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from continual.data.decoding import as_rgb, on_ground, opened
from continual.data.framing import Pose, middle, pose_of, sides
from continual.errors import InputError

FORMAT = "equimos-onnx"
VERSION = 3  # 1 knew no pose; 3 are of several backbones, 2 of one


class Runner:
    """One model. `threads` is how many it computes with; 0 takes them all.

    Raises InputError, a ValueError, for a file that `equimos export` did not write.
    """

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        about = json.loads(self.session.get_modelmeta().custom_metadata_map.get("equimos", "{}"))
        if about.get("format") != FORMAT or about["version"] > VERSION:
            raise InputError(f"{path} is not a model that `equimos export` wrote for this runner")
        self.about: dict[str, Any] = about
        self.classes: list[str | int] = about["classes"]
        self.shape = (3 * len(_parts(about["preprocessing"])), *about["preprocessing"]["size"])  #: of a prepared image
        self._outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model's own outputs for prepared images, float32 (B, 3, H, W); of K backbones (B, 3 K, H, W)."""
        found = self.session.run(self._outputs, {"images": np.ascontiguousarray(inputs, np.float32)})
        return dict(zip(self._outputs, found, strict=True))

    def outputs(self, images: Iterable[Any], *, batch_size: int = 8) -> dict[str, np.ndarray]:
        """Return the model's own outputs for images, see `predict`."""
        parts, batch = [], []
        for index, image in enumerate(images):
            batch.append(prepare(image, self.about["preprocessing"], index))
            if len(batch) == batch_size:
                parts.append(self.run(np.stack(batch)))
                batch = []
        if batch or not parts:
            parts.append(self.run(np.stack(batch) if batch else np.zeros((0, *self.shape), np.float32)))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def predict(
        self, images: Sequence[Any], *, false_alarm_rate: float | None = None, batch_size: int = 8
    ) -> list[dict[str, Any]]:
        """Answer for images: paths, PIL images, uint8 arrays (H, W), (H, W, 1), (H, W, 3) or, transparent, (H, W, 4).

        `false_alarm_rate`, the share of known images that may be called unknown, is the model's own by default. Raises
        InputError for what the learner does not take either, such as a single frame instead of a list of images.
        """
        check_several(images)
        if len(images) == 0:
            return []
        rate = self.about["unknown_rate"] if false_alarm_rate is None else false_alarm_rate
        found = self.outputs(images, batch_size=batch_size)
        answers = []
        for row, best in enumerate(found["scores"].argmax(1)):
            answer = {"answer": self.classes[best], "score": float(found["scores"][row, best])}
            if "probabilities" in found:
                answer["probability"] = float(found["probabilities"][row, best])
                answer["familiarity"] = float(found["familiarity"][row])
                answer["unknown"] = answer["familiarity"] <= rate
            if "stack" in found:
                answer["stack"] = int(found["stack"][row])
            answers.append(answer)
        return answers


def prepare(image: Any, preprocessing: dict[str, Any], index: int = 0) -> np.ndarray:
    """Turn an image into the model's input, float32 (3, H, W): resize, cut out the centre, normalise.

    For several backbones that is done for each, with zeros around smaller inputs: see `continual.data.canvas`.
    """
    pixels, size = _pixels(image, index), preprocessing["size"]
    return np.concatenate([_canvas(pixels, part, size) for part in _parts(preprocessing)])


def _parts(preprocessing: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how an image is prepared for each backbone."""
    return [
        {**part, "posed": preprocessing.get("posed", False)} for part in preprocessing.get("parts", [preprocessing])
    ]


def _canvas(pixels: np.ndarray, preprocessing: dict[str, Any], size: Sequence[int]) -> np.ndarray:
    """Return one backbone's input in the middle of zeros, float32 (3, size)."""
    cut = _framed(pixels, preprocessing).astype(np.float32) * np.float32(1 / 255)  # as torchvision does
    mean, std = (np.asarray(preprocessing[name], np.float32) for name in ("mean", "std"))
    margins = [(have - own) // 2 for have, own in zip(size, cut.shape[:2], strict=True)]
    planes = np.ascontiguousarray(((cut - mean) / std).transpose(2, 0, 1))
    return np.pad(planes, [(0, 0), *((margin, margin) for margin in margins)])


def check_several(images: Any) -> None:
    """Raise InputError for what is no sequence of images: one image, or what has no order."""
    single = isinstance(images, str | Path | bytes) or hasattr(images, "getbands") or isinstance(images, Mapping)
    shape: tuple[int, ...] | None = images.shape if isinstance(images, np.ndarray) else None
    if shape is not None and not (len(shape) == 1 and images.dtype.kind in "OUST"):  # but for an array of paths
        single = len(shape) not in (3, 4) or (len(shape) == 3 and shape[-1] in (3, 4))
    if single or not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        about = "" if shape is None else f" of shape {shape}"
        raise InputError(f"give a list of images, [image] for a single one; got {type(images).__name__}{about}")


def _pixels(image: Any, index: int) -> np.ndarray:
    """Return an image as uint8 (H, W, 3)."""
    if isinstance(image, str | Path):
        return np.asarray(opened(image, str(image)).image)
    if hasattr(image, "getbands"):
        try:
            return np.asarray(as_rgb(image).image)
        except ValueError as error:
            raise InputError(f"image {index} cannot be used: {error}") from None
    if isinstance(image, bytes | bytearray):
        return np.asarray(opened(bytes(image), f"image {index}").image)
    shape: Any = getattr(image, "shape", ())
    if not isinstance(image, np.ndarray) or 0 in shape or len(shape) not in (2, 3):
        raise InputError(_refusal(image, index))
    if image.dtype == np.bool_:
        image = image * np.uint8(255)
    if image.dtype != np.uint8:
        raise InputError(_refusal(image, index))
    if len(shape) == 2:
        image = image[..., None]
    elif shape[2] not in (1, 3, 4):  # channels first, where they cannot be last
        if shape[0] not in (1, 3):
            raise InputError(_refusal(image, index))
        image = image.transpose(1, 2, 0)
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return on_ground(image) if image.shape[2] == 4 else image


def _refusal(image: Any, index: int) -> str:
    shape = f" of shape {tuple(image.shape)} and dtype {image.dtype}" if hasattr(image, "shape") else ""
    return (
        f"image {index} is a {type(image).__name__}{shape}: give paths, PIL images or uint8 arrays (H, W, 3); other "
        "numbers as uint8"
    )


def _framed(pixels: np.ndarray, preprocessing: dict[str, Any]) -> np.ndarray:
    """Return uint8 (size, 3): resized and cut out, in the pose of the picture for a model with a group."""
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
    return np.asarray(Image.fromarray(pixels).resize((width, height), {"bilinear": 2, "bicubic": 3}[interpolation]))


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
    """Resize uint8 (H, W, C) with the weights, order and rounding of Pillow: columns first, 22 bits of fraction."""
    if pixels.shape[1] != width:
        across = _weights(pixels.shape[1], width, interpolation)
        pixels = _round(np.einsum("ow,hwc->hoc", across, pixels, optimize=True))
    if pixels.shape[0] != height:
        down = _weights(pixels.shape[0], height, interpolation)
        pixels = _round(np.einsum("oh,hwc->owc", down, pixels, optimize=True))
    return pixels


def _round(sums: np.ndarray) -> np.ndarray:
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
    """Print one line of JSON an image."""
    if len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    runner = Runner(words[0])
    for path in words[1:]:
        print(json.dumps({"file": path, **runner.predict([path])[0]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
