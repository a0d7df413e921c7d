"""What is kept of a review with a version, in words: see `review.Review.figures`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from continual.console import count


def right(held: Mapping[str, Any] | None) -> str | None:
    """Say how many held-out images are answered right, and of how many.

    >>> right({"images": 8, "accuracy": 0.75})
    '75.0% of 8'
    """
    return f"{held['accuracy']:.1%} of {held['images']}" if held and held["images"] else None


def broke(held: Mapping[str, Any] | None) -> str | None:
    """Say how many answers broke, among held-out images of classes known before; else, what was estimated.

    Nothing is said where nothing was known before. Files from before this was kept have the bare count.

    >>> broke({"images": 8, "known_before": 6, "negative_flips": 1, "estimate": None})
    '1 of 6'
    >>> broke({"images": 2, "known_before": 0, "negative_flips": None, "estimate": {"classes": 3, "broken": 0.29}})
    'about 29.0% for 3 classes (an estimate)'
    >>> broke({"images": 8, "negative_flips": 1})
    '1'
    """
    if not held:
        return None
    if "known_before" not in held:
        return str(held["negative_flips"])
    said = [f"{held['negative_flips']} of {held['known_before']}"] if held["known_before"] else []
    if (guess := held["estimate"]) is not None:
        said.append(f"about {guess['broken']:.1%} for {count(guess['classes'], 'class')} (an estimate)")
    return ", ".join(said) or None


def fixed(held: Mapping[str, Any]) -> str | None:
    """Say how many answers were fixed, among held-out images of classes known before."""
    return None if held["positive_flips"] is None else str(held["positive_flips"])
