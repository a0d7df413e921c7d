"""A concept: something that is on some images and not on others, such as a watermark, a border or a background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from continual.adapters.base import Serving
from continual.data.bands import pictures
from continual.data.images import open_image
from continual.data.inputs import Label, PreparedImages, to_predict
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError
from continual.learning.extractor import Extractor, Progress, extract
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics, solve

#: images of each kind that a concept needs
FEWEST = 8

#: a stamp: a picture, transparent where it covers nothing, its file, or a function from an image to the image with it
Stamp = str | Path | Image.Image | Callable[[Image.Image], Image.Image]
Read = Callable[[Tensor], Sequence[Tensor]]  #: prepared images (B, 3, H, W) -> several features (B, K)


def check_pictures(channels: int) -> None:
    """Raise InputError for a model of images of so many channels, in which no concept can be looked for."""
    if not pictures(channels):
        raise InputError(
            f"a concept is looked for in pictures, and the model takes images of {channels} channels: none can be "
            "checked, suppressed, found or ignored"
        )


class Stamped(Sequence[Any]):
    """Images with a stamp on them, in a corner that is drawn for each, its larger side `size` of the image's smaller.

    With a size of 1 the stamp covers the whole image: a border is one that is transparent in the middle.
    """

    def __init__(self, images: Sequence[Any], stamp: Stamp, size: float, seed: int) -> None:
        self.images, self.size, self.seed = images, size, seed
        if isinstance(stamp, str | Path):
            if not Path(stamp).is_file():
                raise InputError(f"no picture of the stamp at {stamp}")
            open_image(stamp)
            with Image.open(stamp) as opened:
                stamp = opened.convert("RGBA")
        self.stamp = stamp.convert("RGBA") if isinstance(stamp, Image.Image) else stamp
        if not 0 < size <= 1:
            raise InputError(f"the size of a stamp is a share of the image's side, above 0 and up to 1, got {size}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        raw = self.images[index]
        if (kind := str(getattr(raw, "dtype", "uint8")).removeprefix("torch.")) != "uint8":
            raise InputError(
                f"a stamp is put on pictures, and image {index} has numbers of type {kind}: give paths, PIL images, or "
                "uint8 images of values from 0 to 255"
            )
        image = open_image(raw, index)
        if isinstance(image, Tensor):
            image = Image.fromarray(image.permute(1, 2, 0).numpy())
        if not isinstance(self.stamp, Image.Image):
            return self.stamp(image)
        return self._stamped(image, self.stamp, index)

    def _stamped(self, image: Image.Image, stamp: Image.Image, index: int) -> Image.Image:
        whole = self.size == 1
        scale = self.size * min(image.size) / max(stamp.size)
        size = image.size if whole else tuple(max(1, round(side * scale)) for side in stamp.size)
        small, image = stamp.resize(size, Image.Resampling.LANCZOS), image.copy()  # type: ignore[arg-type]
        right, down = torch.randint(2, (2,), generator=generator(self.seed, "stamp", index)).tolist()
        place = right * (image.width - small.width), down * (image.height - small.height)
        image.paste(small, place, small)
        return image


@dataclass(frozen=True)
class Concept:
    """Images with something, and without it."""

    name: str
    present: Sequence[Any]
    absent: Sequence[Any]
    paired: bool  #: whether image i of both is the same except for the concept

    @classmethod
    def of(
        cls,
        images: Any,
        without: Any = None,
        *,
        stamp: Stamp | None = None,
        name: str | None = None,
        size: float = 0.25,
        seed: int = 1993,
    ) -> Concept:
        """Return a concept from images, as `predict` takes them, that get a `stamp`, or that have it, and others.

        Pairs are the better evidence: the images may be of anything, and differ by the stamp alone. Images `without`
        should show what those with it show otherwise. Raises InputError for fewer than FEWEST images.
        """
        if (stamp is None) == (without is None):
            raise InputError("a concept is images and a stamp, or images with it and images without: give one of both")
        channels = 3  # a concept is looked for in pictures
        given = to_predict(images, channels)
        present: Sequence[Any]
        absent: Sequence[Any]
        if stamp is not None:
            # Both are pictures: tensors would be resized in another way.
            present, absent = Stamped(given, stamp, size, seed), Stamped(given, lambda image: image, size, seed)
            named = Path(stamp).stem if isinstance(stamp, str | Path) else "stamp"
        else:
            present, absent = given, to_predict(without, channels)
            named = Path(images).name if isinstance(images, str | Path) else "concept"
        if (few := min(len(present), len(absent))) < FEWEST:
            raise InputError(f"a concept needs {FEWEST} images of each kind, and of one there are {few}")
        return cls(name or named, present, absent, stamp is not None)

    def read(
        self,
        read: Read,
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        value_range: str | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
        workers: int = 0,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return what `read` gives of images with the concept, (m, K) each, and of those without."""
        found = []
        for images in (self.present, self.absent):
            data = PreparedImages(images, [0] * len(images), preprocessing, augment=False, value_range=value_range)
            found.append(extract(data, lambda x, _: read(x), batch_size, device, progress, workers)[0])
        return found[0], found[1]

    def changes(self, present: Tensor, absent: Tensor) -> Tensor:
        """Return how features (m, K) change: of each pair (m, K), or from one mean to the other (1, K)."""
        return present - absent if self.paired else (present.mean(0) - absent.mean(0))[None]


@dataclass(frozen=True)
class ConceptUse:
    """How much a model uses a concept."""

    name: str
    present: int  #: images with it
    probe: float  #: share of other images of which a linear probe says right whether they have it; 0.5: no trace
    #: share of images whose answer changes with it; of images that are no pairs, how far the answers' shares differ
    changed: float
    paired: bool
    towards: dict[Label, float]  #: by how much the share of an answer grows with the concept, the most first

    @property
    def lines(self) -> list[str]:
        """Say it, a line each."""
        what = "of the answers change with it" if self.paired else "is how far answers with and without it differ"
        grown = [f"{label} {share:+.1%}" for label, share in [*self.towards.items()][:5] if share > 0]
        return [
            f"{self.name}: a linear probe finds it in {self.probe:.1%} of features (50 % is chance)",
            f"{self.changed:.1%} {what}",
            *([f"answered more often with it: {', '.join(grown)}"] if grown else []),
        ]


def probe(present: Tensor, absent: Tensor) -> float:
    """Return the share of features (m, D) of every other image of which a ridge on the rest says right what they are.

    Features that do not differ are recognised by chance: half of them.
    """
    right, total = 0.0, 0
    for part in (0, 1):
        own = [present[part::2], absent[part::2]]
        labels = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(own)]).to(present.device)
        sums = GramStatistics.of(torch.cat(own), labels, 2)
        head = solve(sums.balanced(1.0), float(sums.counts.sum()), standardise=True)
        for k, rows in enumerate((present[1 - part :: 2], absent[1 - part :: 2])):
            values = head(rows.double())
            ahead = values[:, k] - values[:, 1 - k]
            sure = 1e-6 * (1 + values.abs().amax())
            right += float((ahead > sure).sum()) + 0.5 * float((ahead.abs() <= sure).sum())
            total += len(rows)
    return right / total


def directions(concept: Concept, extractor: Extractor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the directions, of length 1, in which a concept changes a ViT's tokens: (L, D), and its features: (D,).

    Of a block they are the tokens between its halves, the mean over an image's. Zeros where nothing changes.
    """
    depth = extractor.backbone.depth

    def read(images: Tensor) -> Sequence[Tensor]:
        means: dict[int, Tensor] = {}

        def beside(block: int, h: Tensor) -> Tensor:
            means[block] = h.mean(1)
            return torch.zeros_like(h)

        features = extractor.features(images, Serving(beside))
        return [*(means[block] for block in range(depth)), features]

    present, absent = concept.read(read, extractor.backbone.preprocessing, extractor.device, **options)
    found = [_leading(concept.changes(*pair)) for pair in zip(present, absent, strict=True)]
    return torch.stack(found[:-1]), found[-1]


def _leading(changes: Tensor) -> Tensor:
    """Return the direction (D,) of length 1 along which rows (m, D) are largest; zeros if they are nothing."""
    if float(changes.abs().max()) == 0:
        return torch.zeros_like(changes[0])
    _, _, rows = torch.linalg.svd(changes.double().cpu(), full_matrices=False)
    return normalize(rows[0], dim=0).to(changes)
