"""What the numbers of an image mean: which is black, which is white, or that it is the backbone's input already.

Files, PIL images, uint8 and bool say it themselves: pictures of 16 bits per channel use all of them, unless a pair says
that a camera had fewer. For all else, floats and wider integers, a value range says it:

| value range | numbers | what is done with the image |
| --- | --- | --- |
| "bytes" | 0 to 255 | resized, cropped and normalised, as a uint8 image |
| "unit" | 0 to 1, torchvision's `ToTensor` | the same, bit for bit, in steps of 1/255 |
| (low, high), "0..4095" | black to white, what lies outside is cut off | the same, in full precision |
| "normalised" | the backbone's mean and deviation were applied | nothing: it must have the backbone's size |

A range that was stated is used; else the one that the learner remembers from learning; else floats are looked at, all
that were given together, and `guess` decides. Nothing here needs torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from continual.errors import InputError

ValueRange = str | tuple[float, float]

NORMALISED, UNIT, BYTES = "normalised", "unit", "bytes"
_NAMED = {UNIT: (0.0, 1.0), BYTES: (0.0, 255.0)}
#: share of a range by which bicubic resizing of floats goes beyond it at an edge
OVERSHOOT = 0.125
#: no normalised image is brighter, whatever the data set: ImageNet's brightest value is 2.64, MNIST's 2.82
BRIGHTEST = 4.0
#: nor as far from zero, even if each image is divided by its own deviation
FURTHEST = 16.0
#: images of bytes have a pixel this bright: a quarter of white
BRIGHT_BYTE = 64.0

#: pictures of 16 bits whose brightest number is below this show 16 of 256 steps at most: a camera had fewer bits
DARK = 2**12

ALLOWED = "'normalised', 'unit' (0 to 1), 'bytes' (0 to 255) or a pair of numbers (black, white)"


class ValueRangeWarning(UserWarning):
    """The range of an image's numbers was guessed from the numbers."""


def range_name(value: ValueRange) -> str:
    """Return a value range by its one name; raises InputError for what is none.

    >>> range_name((0, 255)), range_name([0, 4095]), range_name("unit")
    ('bytes', '0..4095', 'unit')
    """
    if isinstance(value, str) and value in (NORMALISED, *_NAMED):
        return value
    try:
        low, high = (float(end) for end in (value.split("..") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        low = high = 0.0
    if not -float("inf") < low < high < float("inf"):
        raise InputError(f"value_range must be {ALLOWED}, got {value!r}")
    return next((name for name, ends in _NAMED.items() if ends == (low, high)), f"{low:.15g}..{high:.15g}")


def ends(name: str) -> tuple[float, float]:
    """Return (black, white) of a named range that is not "normalised".

    >>> ends("0..4095")
    (0.0, 4095.0)
    """
    if name in _NAMED:
        return _NAMED[name]
    low, high = name.split("..")
    return float(low), float(high)


def deep_ends(name: str | None) -> tuple[float, float] | None:
    """Return (black, white) of pictures of 16 bits per channel, None if these use all of them.

    >>> deep_ends("0..4095"), deep_ends("0..1.5"), deep_ends("bytes"), deep_ends(None)
    ((0.0, 4095.0), None, None, None)
    """
    if name is None or name == NORMALISED or ends(name)[1] <= 255:
        return None
    return ends(name)


def dark(brightest: Sequence[int]) -> str | None:
    """Say that pictures of 16 bits of these largest numbers are nearly black, and what to do; None if they are not.

    >>> print(dark([1800, 40_000]), dark([900, 1800]))  # doctest: +ELLIPSIS
    None 2 images of 16 bits are nearly black, with no number above 1800 of 65535: say what white is, as ...0..2047 ...
    """
    most = max(brightest, default=0)
    if not 0 < most < DARK:
        return None
    seen = "1 image of 16 bits is" if len(brightest) == 1 else f"{len(brightest)} images of 16 bits are"
    return (
        f"{seen} nearly black, with no number above {most} of 65535: say what white is, as --value-range "
        f"0..{2 ** most.bit_length() - 1} or data.value_range"
    )


def fits(name: str, low: float, high: float) -> bool:
    """Tell whether numbers from `low` to `high` can be of a named range: "unit" and "bytes" up to an overshoot.

    >>> fits("unit", -0.05, 1.0), fits("unit", -2.1, 2.6), fits("0..4095", 0, 5000), fits("normalised", 0, 255)
    (True, False, True, False)
    """
    if name == NORMALISED:
        return low >= -FURTHEST and high <= FURTHEST
    if name not in _NAMED:
        return True
    black, white = _NAMED[name]
    margin = OVERSHOOT * (white - black)
    return black - margin <= low and high <= white + margin


def guess(low: float, high: float) -> tuple[str | None, bool]:
    """Return the range that floats from `low` to `high` seem to have, None if they fit none, and whether it is sure.

    >>> guess(0, 1), guess(-2.1, 2.6), guess(0, 255), guess(0.3, 2.2), guess(0, 16)
    (('unit', False), ('normalised', True), ('bytes', False), ('normalised', False), (None, False))
    """
    if fits(UNIT, low, high):
        return UNIT, False
    if low < -OVERSHOOT and fits(NORMALISED, low, high):
        return NORMALISED, True
    if low >= -OVERSHOOT and high <= BRIGHTEST:
        return NORMALISED, False
    return (BYTES if high > BRIGHT_BYTE and fits(BYTES, low, high) else None), False


def decide(
    stated: ValueRange | None, remembered: str | None, spread: tuple[float, float] | None, *, integers: bool = False
) -> str | None:
    """Return the name of the range that images have, or None where no image needs one.

    `spread` is the least and the largest number of all images that need a range, None if there are none; `integers`
    says that some of these are whole numbers, whose range is not guessed. Warns of what was guessed; raises InputError
    for numbers that fit no range, and for those that cannot be of the range remembered.
    """
    if stated is not None:
        return range_name(stated)
    if spread is None:
        return remembered
    low, high = spread
    found, sure = guess(low, high)
    said = f"the images' numbers lie between {low:.4g} and {high:.4g}"
    if remembered is not None:
        if not fits(remembered, low, high):
            raise InputError(f"{said}, but were {remembered!r} when learned: pass value_range={ALLOWED}")
        if remembered == NORMALISED and found == UNIT:
            _warn("are taken as normalised, as when learned, though they lie within 0 and 1", "value_range='unit'")
        return remembered
    if integers:
        raise InputError(
            f"{said} and are whole numbers that are not uint8: pass value_range='bytes' if white is 255, or "
            "(black, white), e.g. (0, 4095) for 12 bits: --value-range 0..4095, and data.value_range in a config"
        )
    if found is None:
        raise InputError(f"{said}, which is no common range: pass value_range={ALLOWED}")
    if not sure:
        about = {
            UNIT: "lie within 0 and 1 and are taken as images in that range, not as normalised ones",
            BYTES: "lie within 0 and 255 and are taken as bytes",
            NORMALISED: "have no negative number, yet some above 1, and are taken as normalised",
        }
        _warn(about[found], f"value_range={found!r}, which says it")
    return found


def _warn(what: str, cure: str) -> None:
    """Warn without figures, so that Python's filters show it once."""
    warnings.warn(f"float images {what}: pass {cure}", ValueRangeWarning, stacklevel=2)
