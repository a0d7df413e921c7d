"""What the probability and the p-value of an answer mean to people: the same for commands and the page."""

from __future__ import annotations

#: a calibrated probability below it is more often wrong than right
SURE = 0.5
#: p-values below which an image is a little unusual, and unlike known ones
USUAL, LIKE = 0.25, 0.05


def unsure(probability: float | None) -> bool | None:
    """Tell whether an answer is more often wrong than right; None where that is not known."""
    return None if probability is None else probability < SURE


def typicality(p_value: float) -> str:
    r"""Say how typical an image is, of which a share `p_value` of known ones are at least as unlike all classes.

    >>> typicality(0.6), typicality(0.1)
    ('looks like known images', 'a little unusual: more so than 90\xa0% of known images')
    >>> typicality(0.02), typicality(0.002)
    ('unlike known images: more so than 98\xa0% of them', 'unlike known images: more so than 99.8\xa0% of them')
    """
    share = f"{1 - p_value:.{int(p_value < 0.01)}%}".replace("%", "\xa0%")
    if p_value >= USUAL:
        return "looks like known images"
    if p_value >= LIKE:
        return f"a little unusual: more so than {share} of known images"
    return f"unlike known images: more so than {share} of them"
