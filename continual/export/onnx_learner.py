"""Learn on the device: add a class to a model that `equimos export --learnable` wrote, or correct one, by numpy.

    from onnx_learner import Learner

    model = Learner("parts.onnx", "parts.sums.npz")
    model.learn(frames, "nut")        # a new class, or more images of a known one
    model.correct(["wrong.png"], "bolt")
    model.predict(frames)             # as the runner's, with the new class
    model.save()                      # writes the sums, whole or not at all

or `python onnx_learner.py parts.onnx parts.sums.npz --class nut photos/*.png`, and without `--class` one line of JSON
for each photo, by all classes so far. For the methods strata, ridge and simple_cil. What is learned is what `learn`
and `correct` of the model in PyTorch would: the same sums, head, probabilities and p-values, up to the rounding of
floats. The ONNX file stays as it is. Needs numpy and onnxruntime alone; a regression on D numbers takes 8 D^2 bytes a
few times over, and D^3 / 3 multiplications.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continual.data.names import same_name
from continual.errors import InputError
from continual.export.numpy_certainty import certainty, unlike, usual_leverage
from continual.export.numpy_sums import (
    CLAMPED,
    COSINE_TEMPERATURES,
    LEVELS,
    TEMPERATURES,
    USUAL,
    Arrays,
    agreeing,
    back_solved,
    balanced,
    best_penalty,
    cosines_left_out,
    file_identity,
    forward_solved,
    image_weights,
    left_out,
    losses_at,
    moments,
    one_class,
    quantiles,
    softmax,
    unit,
    wider,
    write_whole,
)
from continual.export.onnx_runner import Runner, check_several, inputs, print_answers


class Learner(Runner):
    """A model that answers as `Runner` does, and learns; `sums` is the file beside the ONNX file.

    Raises InputError for files that do not belong together.
    """

    def __init__(self, path: str | Path, sums: str | Path, *, threads: int = 0) -> None:
        super().__init__(path, threads=threads)
        self.place, self._found = Path(sums), file_identity(sums)
        try:
            with np.load(self.place, allow_pickle=False) as found:
                self.arrays: Arrays = {name: found[name] for name in found.files}
            self.state: dict[str, Any] = json.loads(str(self.arrays.pop("about")))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{sums} holds no sums that can be read ({type(error).__name__})") from error
        if self.state["backbone"] != self._backbone() or "views" not in self._outputs:
            raise InputError(f"{sums} is not of the model in {path}: export both together, with --learnable")
        self.classes = list(self.state["classes"])
        if self.state["method"] != "simple_cil":
            rows, columns = np.tril_indices(len(self.arrays["total"]))
            gram = np.zeros((len(self.arrays["total"]),) * 2)
            gram[rows, columns] = gram[columns, rows] = self.arrays.pop("triangle")
            self.arrays["gram"] = gram

    def run(self, inputs: np.ndarray) -> Arrays:
        """Return scores, and what goes with them, of prepared images, float32 (B, C, H, W)."""
        return self._judged(self._views(inputs))

    def learn(self, images: Any, label: str | int) -> None:
        """Learn images of one class, a new one or one that is known."""
        self._update(images, label, usual=True)

    def correct(self, images: Any, label: str | int) -> None:
        """Say that these images are of a known class; what is usual of images is not learned from them."""
        if label not in self.classes:
            raise InputError(f"the model has no class {label!r}: learn it")
        self._update(images, label, usual=False)

    def save(self) -> None:
        """Write the sums to their file, whole or not at all."""
        arrays: dict[str, Any] = {**self.arrays, "about": np.array(json.dumps({**self.state, "classes": self.classes}))}
        if "gram" in arrays:
            gram = arrays.pop("gram")
            arrays["triangle"] = gram[np.tril_indices(len(gram))]
        if self._found != file_identity(self.place):
            raise InputError(f"{self.place} was changed by another since it was read: open it again, and learn again")
        write_whole(self.place, arrays)
        self._found = file_identity(self.place)

    # Answers -------------------------------------------------------------------------------------------

    def _backbone(self) -> list[str]:
        parts = self.about.get("backbones") or [self.about["backbone"]]
        return [str(part["sha256"]) for part in parts]

    def _views(self, inputs: np.ndarray) -> np.ndarray:
        (found,) = self.session.run(["views"], {"images": np.ascontiguousarray(inputs, np.float32)})
        return np.asarray(found)

    def _judged(self, views: np.ndarray) -> Arrays:
        """Return scores, and probabilities and p-values where they are known, of views (B, V, D)."""
        asked = np.einsum("v,bvd->bd", self._shares()[self.state["reading"]].astype(np.float32), views)
        if self.state["method"] == "simple_cil":
            values = unit(asked) @ unit(self.arrays["mean"]).T
            if float(self.arrays["images"]) <= 0 or len(self.classes) < 2:
                return {"scores": softmax(values)}
            temperature = COSINE_TEMPERATURES[int(self.arrays["losses"].argmin())]
            return {"scores": softmax(values), "probabilities": agreeing(softmax(values / temperature), values)}
        values = asked @ self.arrays["weight"].astype(np.float32) + self.arrays["bias"].astype(np.float32)
        found, single = {"scores": softmax(values)}, len(self.classes) < 2
        if "losses" not in self.arrays or float(self.arrays["images"]) <= 0 or one_class(self.arrays) != single:
            return found
        errors = asked @ self.arrays["errors"] + self.arrays["errors_bias"]
        leverage = np.square(errors).sum(-1) + np.float32(self.arrays["share"])
        t = values / (np.sqrt(leverage) * np.float32(self.arrays["typical"]))[:, None]
        losses = self.arrays["losses"].reshape(-1, len(TEMPERATURES))
        reading = min(self.state["reading"], len(losses) - 1)
        if single:
            found["anomaly"] = leverage / np.float32(usual_leverage(self.arrays, reading))
        else:
            found["probabilities"] = agreeing(softmax(t / TEMPERATURES[losses[reading].argmin()]), values)
        usual = self.arrays["ood_scores"].reshape(-1, LEVELS)[reading]
        below = np.searchsorted(usual.astype(np.float32), unlike(t, leverage, self.arrays))
        return {**found, "familiarity": ((1 + LEVELS - below) / (1 + LEVELS)).astype(np.float32)}

    def _shares(self) -> np.ndarray:
        return np.asarray(self.state["readings"], float)

    # Learning ------------------------------------------------------------------------------------------

    def _update(self, images: Any, label: str | int, *, usual: bool) -> None:
        if self.classes and type(label) is not type(self.classes[0]):
            raise InputError(f"{label!r} is {type(label).__name__}, but the classes are not: use one kind")
        if label not in self.classes:
            for known in self.classes:
                if same_name(str(known)) == same_name(str(label)):
                    raise InputError(f"{label!r} is one name with {known!r} for people: say {known!r}")
        found = [self._views(batch) for batch in self._prepared(images)]
        if not found:
            raise InputError("there is no image to learn")
        views = np.concatenate(found)
        before = dict(self.arrays), list(self.classes)
        try:
            if label not in self.classes:
                self.classes.append(label)
            own = self.classes.index(label)
            (self._add_prototype if self.state["method"] == "simple_cil" else self._add)(views, own, usual)
        except BaseException:  # a model is what it was, or what it is to be
            self.arrays, self.classes = before
            raise

    def _prepared(self, images: Any) -> Iterator[np.ndarray]:
        given = list(inputs(check_several(images), self.about))
        for start in range(0, len(given), 8):
            yield np.stack(given[start : start + 8])

    def _add_prototype(self, views: np.ndarray, own: int, usual: bool) -> None:
        arrays, classes = self.arrays, len(self.classes)
        total = wider(arrays["mean"] * arrays["count"][:, None].astype(np.float32), classes, 0)
        count = wider(arrays["count"], classes, 0)
        total[own] += views[:, 0].sum(0)
        count[own] += len(views)
        arrays["mean"], arrays["count"] = total / count[:, None].astype(np.float32), count
        if not usual or count[own] < 2:
            return
        values = cosines_left_out(views[:, 0], arrays["mean"], count[own], own)
        self._usual(values[None].astype(float), np.full(len(values), own), None, None, COSINE_TEMPERATURES)

    def _add(self, views: np.ndarray, own: int, usual: bool) -> None:
        arrays, classes, count = self.arrays, len(self.classes), views.shape[1]
        rows = views.reshape(-1, views.shape[-1]).astype(float)
        arrays["total"] = arrays["total"] + rows.sum(0) / count
        arrays["gram"] = arrays["gram"] + rows.T @ rows / count
        arrays["targets"] = wider(arrays["targets"], classes, 1)
        arrays["targets"][:, own] += rows.sum(0) / count
        arrays["counts"] = wider(arrays["counts"], classes, 0)
        arrays["counts"][own] += len(views)
        self._solve(views.astype(float), own, usual)

    def _solve(self, views: np.ndarray, own: int, usual: bool) -> None:
        """Solve the head of the sums, and say how sure it may be; see `continual.uncertainty.leverage`."""
        arrays, seen = self.arrays, {name: self.arrays[name] for name in ("total", "gram", "targets", "counts")}
        sums = balanced(seen, self.state["balance"])
        mean, deviation = moments(sums)
        products = (sums["gram"] - sums["counts"].sum() * np.outer(mean, mean)) / np.outer(deviation, deviation)
        crossed = (sums["targets"] - np.outer(mean, sums["counts"])) / deviation[:, None]
        penalty, changes = self._penalty(sums, products, crossed), None
        if "ignored" in arrays:
            changes = arrays["ignored"] * np.sqrt(sums["counts"].sum() / arrays["ignored_images"]) / deviation
            products = products + changes.T @ changes
        lower = np.linalg.cholesky(products + penalty * np.eye(len(products)))
        weight = back_solved(lower, forward_solved(lower, crossed)) / deviation[:, None]
        arrays["weight"], arrays["bias"] = weight, sums["counts"] / sums["counts"].sum() - mean @ weight
        if "sketch" not in arrays:
            return
        system = lower, mean, deviation
        if float(arrays["leverage"]) > CLAMPED or one_class(arrays) != (len(self.classes) < 2):
            arrays |= {name: np.zeros_like(arrays[name]) for name in USUAL} | {"own_weight": np.ones(())}
        left = self._left_out(views, own, seen, sums, system) if usual and seen["counts"][own] > 1 else None
        newest = None if left is None else (views, left[1], np.ones(len(views)) if left[2] is None else left[2])
        arrays |= certainty(arrays, sums, system, penalty, changes, newest)
        if left is not None:
            t, leverages, weights = left
            self._usual(t, np.full(len(views), own), weights, leverages, TEMPERATURES)

    def _penalty(self, sums: Arrays, products: np.ndarray, crossed: np.ndarray) -> float:
        images = float(self.arrays["counts"].sum())
        if self.state["penalty_share"] is not None:
            return float(self.state["penalty_share"] * images)
        if self.state["method"] == "strata":
            return float(self.state["penalty"] * len(products))
        values, directions = np.linalg.eigh(products)
        explained = np.square(directions.T @ crossed).sum(1)
        count = float(sums["counts"].sum())
        return best_penalty(values, explained, count - float(np.square(sums["counts"]).sum()) / count, count - 1)

    def _left_out(
        self,
        views: np.ndarray,
        own: int,
        seen: Arrays,
        sums: Arrays,
        system: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return t and leverages of the images, each left out, and their weights; see `uncertainty.left_out`."""
        head = self.arrays["weight"], self.arrays["bias"]
        exact = sums is seen and views.shape[1] == 1
        t, h = left_out(views, own, seen, sums, system, head, None if exact else self._shares())
        weights = None if exact else image_weights(seen["counts"], self.state["balance"])[[own] * len(views)]
        return t, h, weights

    def _usual(
        self,
        t: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None,
        leverages: np.ndarray | None,
        temperatures: np.ndarray,
    ) -> None:
        """Add to what is usual values t (R, n, C) of images left out, which count as `weights` (n,) say."""
        arrays, classes = self.arrays, t.shape[-1]
        t = t if leverages is None else t / arrays["typical"]
        faded, before = min(float(arrays["classes"]) / classes, 1.0) ** 2, float(arrays["images"])
        own = np.ones(len(labels)) if weights is None else weights
        losses = np.stack([losses_at(temperatures, one, labels, own) for one in t])
        there = arrays["losses"].reshape(-1, len(temperatures))
        sums = faded * there + losses
        arrays["losses"] = sums.reshape(arrays["losses"].shape if arrays["losses"].size == sums.size else sums.shape)
        if leverages is not None:
            scores, kept = unlike(t, leverages, arrays), arrays["ood_scores"].reshape(-1, LEVELS)
            kept = np.broadcast_to(kept, (len(scores), LEVELS))
            each = np.concatenate([np.full(LEVELS, before / LEVELS), own])
            rows = [quantiles(np.concatenate(pair), each) for pair in zip(kept, scores, strict=True)]
            arrays["ood_scores"] = np.stack(rows)
        before = faded * before if leverages is None else before  # a curve alone fades with its images
        arrays["images"] = np.array(before + own.sum())
        arrays["classes"] = np.array(float(classes))


def main(words: Sequence[str]) -> int:
    """Learn images of a class, and save; or print one line of JSON for each image, as the runner does."""
    learns = len(words) > 2 and words[2] in ("--class", "--correct")
    if len(words) < (5 if learns else 3) or (not learns and words[2].startswith("--")):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        model = Learner(words[0], words[1])
        if not learns:
            return print_answers(model, words[2:])
        (model.learn if words[2] == "--class" else model.correct)([*words[4:]], words[3])
        model.save()
    except InputError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"learned": len(words) - 4, "class": words[3], "classes": len(model.classes)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
