"""How long `equimos learn` looks for near-duplicates among many fingerprints, and what comparing all with all takes.

    OMP_NUM_THREADS=1 python benchmarks/near_duplicates.py --counts 8000 50000

The fingerprints are drawn (seed 1993): of unlike pictures; of parts on one ground, half of whose bits are the same for
all; and of bursts of 80 pictures, up to two bits apart from the first. It takes no images: reading them takes longer.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator

import arguments
import numpy as np
from numpy.typing import NDArray

from continual.lifecycle.fingerprints import NEAR
from continual.lifecycle.groups import search
from continual.lifecycle.seen_images import SeenImage

Prints = NDArray[np.uint64]


def unlike(draw: np.random.Generator, count: int) -> Prints:
    """Fingerprints whose every bit is drawn."""
    return draw.integers(0, 2**64, count, dtype=np.uint64)


def on_one_ground(draw: np.random.Generator, count: int) -> Prints:
    """The upper half of the picture is the same for all."""
    return draw.integers(0, 2**32, count, dtype=np.uint64)


def bursts(draw: np.random.Generator, count: int) -> Prints:
    """80 pictures of each scene, of which up to two bits differ."""
    scenes = np.repeat(unlike(draw, -(-count // 80)), 80)[:count]
    for _ in range(2):
        scenes ^= np.left_shift(np.uint64(1), draw.integers(0, 64, count, dtype=np.uint64)) * draw.integers(
            0, 2, count, dtype=np.uint64
        )
    return scenes


def all_with_all(prints: Prints) -> int:
    """Count the near pairs, each picture compared with all others."""
    pairs = 0
    for place, one in enumerate(prints):
        apart = np.unpackbits((prints[place + 1 :] ^ one).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
        pairs += int((apart <= NEAR).sum())
    return pairs


def rows(counts: list[int], compare_up_to: int) -> Iterator[str]:
    """Measure one line of the table at a time."""
    yield "| fingerprints | number | pairs found | bands [s] | all with all [s] | peak memory [MiB] |\n" + (
        "| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    kinds: dict[str, Callable[[np.random.Generator, int], Prints]] = {
        "unlike": unlike,
        "parts on one ground": on_one_ground,
        "bursts of 80": bursts,
    }
    for name, make in kinds.items():
        for count in counts:
            prints = make(np.random.default_rng(1993), count)
            images = [SeenImage(place, value, "part") for place, value in enumerate(prints.view(np.int64).tolist())]
            started = time.perf_counter()
            found = search(images, ()).near.number
            taken, plain = time.perf_counter() - started, "–"
            if count <= compare_up_to:
                started = time.perf_counter()
                assert all_with_all(prints) == found
                plain = f"{time.perf_counter() - started:.1f}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            yield f"| {name} | {count:,} | {found:,} | {taken:.2f} | {plain} | {peak:.0f} |"


if __name__ == "__main__":
    asked = arguments.parser(
        __doc__,
        counts={"type": int, "nargs": "+", "default": [8000, 50000]},
        compare_up_to={"type": int, "default": 8000, "help": "fingerprints to compare all with all"},
    ).parse_args()
    for line in rows(asked.counts, asked.compare_up_to):
        print(line, flush=True)
