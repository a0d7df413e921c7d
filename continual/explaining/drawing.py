"""An explanation as a picture: what the model sees, and the same with the places that carry the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from continual.errors import InputError
from continual.explaining.explanation import Explanation

ADDS, TAKES = (31, 111, 235), (230, 120, 0)  #: blue and orange, which most people can distinguish
STRONGEST = 0.75  #: how opaque the strongest place is
SIDE = 448  #: pixels along the longer side of each half
GAP, SMALL = 8, 128


def drawn(found: Explanation, like: Sequence[Image.Image] = ()) -> Image.Image:
    """Return the two halves side by side, and below them pictures it is `like`.

    Raises InputError for an explanation without a picture.
    """
    if found.picture is None:
        raise InputError("there is no picture to draw on: images of many channels, or of several backbones, have none")
    scale = SIDE / max(found.picture.size)
    size = (round(found.picture.width * scale), round(found.picture.height * scale))
    plain = found.picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    most = max(float(np.abs(found.places).max()), 1e-12)
    colour = np.where((found.places > 0)[..., None], np.array(ADDS), np.array(TAKES)).astype(np.uint8)
    opaque = (255 * STRONGEST * np.abs(found.places) / most).astype(np.uint8)
    layer = Image.fromarray(np.dstack([colour, opaque])).resize(size, Image.Resampling.NEAREST)
    below = SMALL + GAP if like else 0
    whole = Image.new("RGB", (2 * size[0] + GAP, size[1] + below), "white")
    whole.paste(plain, (0, 0))
    whole.paste(Image.alpha_composite(plain.convert("RGBA"), layer).convert("RGB"), (size[0] + GAP, 0))
    for place, small in enumerate(like):
        whole.paste(small.convert("RGB").resize((SMALL, SMALL)), (place * (SMALL + GAP), size[1] + GAP))
    return whole
