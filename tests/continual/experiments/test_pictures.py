"""Pictures: they can be read on light and dark ground, and nothing in a label breaks them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continual.experiments import pictures
from continual.metrics.flips import negative_flips
from tests.support.simulated_runs import made_up


def luminance(colour: str) -> float:
    """Relative luminance as the accessibility guidelines (WCAG 2) define it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("ground", ["#ffffff", "#14181d"])
def test_colours_stand_out_on_light_and_dark(ground: str) -> None:
    for colour in pictures.COLOURS:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_inline_pictures_take_the_pages_colours_and_share_no_ids() -> None:
    cells = [made_up("mos", 1), made_up("mos", 2), made_up("ridge", 1, stacks=False)]
    drawn = [
        pictures.accuracy(cells),
        pictures.curves(cells, negative_flips),
        pictures.forgetting(cells),
        pictures.reliability(cells),
        pictures.accuracy_matrix(cells[:2]),
        pictures.retrieval(cells[:2]),
    ]
    ids: list[str] = []
    classes: dict[str, str] = {}
    for number, figure in enumerate(drawn):
        svg = pictures.inline(figure, f"p{number}", 'what "it" shows', classes)
        tree = ET.fromstring(svg)
        found = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
        ids += found
        for element in tree.iter():
            assert "style" not in element.attrib
            assert element.attrib.get("class") in (None, *classes.values())
            for key, value in element.attrib.items():
                if "url(" in value or (key.endswith("href") and not value.startswith("data:image/png;")):
                    assert value.split("#")[1].rstrip(")") in found
        assert tree.attrib["aria-label"] == 'what "it" shows'
        assert "width" not in tree.attrib
        assert pictures.INK not in svg
        assert "script" not in svg
    assert len(ids) == len(set(ids))
    assert any("fill:currentColor" in style for style in classes)
    assert not any(pictures.INK in style or "font-family" in style for style in classes)


def test_labels_are_text(tmp_path: Path) -> None:
    cells = [made_up(label, 1) for label in ("a$b^", "_hidden", "<b>&", "名前")]
    svg = pictures.inline(pictures.accuracy(cells, "50 $ & more $"), "p", "x", {})
    shown = ["".join(t.itertext()).strip() for t in ET.fromstring(svg).iter() if t.tag.endswith("text")]
    for text in ("a$b^", "_hidden", "<b>&", "名前", "50 $ & more $"):
        assert text in shown
    pictures.save(pictures.accuracy(cells), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 300


def test_one_experience_and_many_methods_can_be_drawn() -> None:
    cells = [made_up(f"method {n}", n, experiences=1, stacks=False) for n in range(14)]
    for figure in (pictures.accuracy(cells), pictures.forgetting(cells), pictures.accuracy_matrix(cells[:1])):
        assert pictures.inline(figure, "p", "x", {})
