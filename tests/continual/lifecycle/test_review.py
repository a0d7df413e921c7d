"""What broke is said in the same sentences by the command and the page of the server."""

from __future__ import annotations

from collections import Counter

import pytest

from continual.cli.changes import show_review
from continual.lifecycle.review import DRAWN, Review
from continual.serving.teaching import _words


def test_a_command_and_the_page_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = Review(
        truth=["nut", "nut", "bolt", "ring"],
        old=["nut", "bolt", "bolt", None],
        new=["bolt", "nut", "bolt", "ring"],
        gone=1,
        simulated={"cog": 0.1, "pin": 0.3},
        lost_to=Counter({("pin", "cog"): DRAWN * 3 // 10, ("cog", "pin"): DRAWN // 100}),
        unjudged=["cam"],
    )
    said = [
        "held-out images of classes known before: 66.7% of 3 right, 66.7% before; 1 broke, 1 fixed",
        "1 image of them are gone, and judged by the features that were kept",
        "held-out images of new classes: 100.0% of 1 right",
        "no held-out image is here of 2 classes known before; by their statistics about 20.0% of the answers broke (an "
        "estimate)",
        "nothing can be said of 1 class known before: no held-out image is here",
    ]
    assert found.lines() == said
    assert _words(found) == [
        *said,
        "nut is now taken for bolt: 1 image",
        "pin is now taken for cog: 30.0%, by statistics",
    ]
    show_review(found, "Keep some")
    printed = " ".join(capsys.readouterr().err.split())
    for line in [*said[:-1], f"{said[-1]}. Keep some", "nut bolt 1", "pin cog 30.0%"]:
        assert line in printed
    assert Review().lines() == []
