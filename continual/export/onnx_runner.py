"""Run a model that `equimos export` wrote. Needs numpy and onnxruntime; Pillow to read image files.

Copy this file to where the model is. In Python:

    runner = Runner("parts.onnx")
    runner.predict(["photos/0.png"])   # paths, PIL images or uint8 arrays (H, W, 3)

or `python onnx_runner.py parts.onnx photos/*.png`, one line of JSON an image. Each answer is a dict: `answer` (the
class), `score`, and, where the model has them, `probability` (calibrated), `familiarity`, `unknown` and `stack`.
A camera's frames, as arrays, need no Pillow: they are resized here, with its weights and rounding (some releases of
it resize the rows before the columns, which is not the same to the last bit).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FORMAT = "equimos-onnx"
VERSION = 1


class Runner:
    """One model. `threads` is how many it computes with; 0 takes them all.

    Raises ValueError for a file that `equimos export` did not write.
    """

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        about = json.loads(self.session.get_modelmeta().custom_metadata_map.get("equimos", "{}"))
        if about.get("format") != FORMAT or about["version"] > VERSION:
            raise ValueError(f"{path} is not a model that `equimos export` wrote for this runner")
        self.about: dict[str, Any] = about
        self.classes: list[str | int] = about["classes"]
        self._outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the model's own outputs for prepared images, float32 (B, 3, H, W)."""
        found = self.session.run(self._outputs, {"images": np.ascontiguousarray(inputs, np.float32)})
        return dict(zip(self._outputs, found, strict=True))

    def outputs(self, images: Iterable[Any], *, batch_size: int = 8) -> dict[str, np.ndarray]:
        """Return the model's own outputs for images."""
        parts, batch = [], []
        for image in images:
            batch.append(prepare(image, self.about["preprocessing"]))
            if len(batch) == batch_size:
                parts.append(self.run(np.stack(batch)))
                batch = []
        if batch or not parts:
            size = self.about["preprocessing"]["size"]
            parts.append(self.run(np.stack(batch) if batch else np.zeros((0, 3, *size), np.float32)))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def predict(
        self, images: Sequence[Any], *, false_alarm_rate: float | None = None, batch_size: int = 8
    ) -> list[dict[str, Any]]:
        """Answer for images: paths, PIL images, uint8 arrays (H, W, 3) or (H, W).

        `false_alarm_rate`, the share of known images that may be called unknown, is the model's own by default.
        """
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


def prepare(image: Any, preprocessing: dict[str, Any]) -> np.ndarray:
    """Turn an image into the model's input, float32 (3, H, W): resize, cut out the centre, normalise."""
    height, width = preprocessing["size"]
    resized = _resized(image, [int(side / preprocessing["crop_pct"]) for side in (height, width)], preprocessing)
    top, left = (round((have - want) / 2) for have, want in zip(resized.shape, (height, width), strict=False))
    cut = resized[top : top + height, left : left + width].astype(np.float32) / np.float32(255)
    mean, std = (np.asarray(preprocessing[name], np.float32) for name in ("mean", "std"))
    return ((cut - mean) / std).transpose(2, 0, 1)


def _resized(image: Any, sides: list[int], preprocessing: dict[str, Any]) -> np.ndarray:
    """Return uint8 (H, W, 3) of these sides; of two equal ones, the shorter is that long and the other follows."""
    name = preprocessing["interpolation"]
    if isinstance(image, str | Path):
        from PIL import Image

        with Image.open(image) as opened:
            image = _upright(opened)
    if not isinstance(image, np.ndarray):
        image = _upright(image)
        height, width = _sides((image.height, image.width), sides)
        return np.asarray(image.resize((width, height), {"bilinear": 2, "bicubic": 3}[name]))
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image is a path, a PIL image or a uint8 array (H, W, 3); got {image.dtype} {image.shape}")
    return resize(image, *_sides(image.shape[:2], sides), name)


def _upright(image: Any) -> Any:
    """Return a PIL image as the model was taught: rotated as its EXIF says, in RGB, and of 16 bits the upper 8."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode[0] == "I":
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGB")


def _sides(have: Sequence[int], wanted: list[int]) -> tuple[int, int]:
    if wanted[0] != wanted[1]:
        return wanted[0], wanted[1]
    short, long = sorted(have)
    other = int(wanted[0] * long / short)
    return (wanted[0], other) if have[0] <= have[1] else (other, wanted[0])


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
