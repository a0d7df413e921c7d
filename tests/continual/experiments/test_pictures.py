"""Pictures: they can be read on light and dark ground, and nothing in a label breaks them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from continual.experiments import heat_maps, pictures, svg
from continual.experiments.equivariance import config
from continual.methods import methods
from continual.metrics.flips import negative_flips
from equivariant import style
from equivariant.wrappers import wrappers
from tests.support.simulated_runs import made_up


def luminance(colour: str) -> float:
    """Relative luminance as the accessibility guidelines (WCAG 2) define it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("ground", ["#ffffff", "#14181d"])
def test_colours_stand_out_on_light_and_dark(ground: str) -> None:
    for colour in style.COLOURS:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_inline_pictures_take_the_pages_colours_and_share_no_ids() -> None:
    cells = [made_up("mos", 1), made_up("mos", 2), made_up("ridge", 1, stacks=False)]
    drawn = [
        pictures.accuracy(cells),
        pictures.curves(cells, negative_flips),
        pictures.forgetting(cells),
        pictures.reliability(cells),
        pictures.cost(cells),
        heat_maps.matrices(cells),
        heat_maps.retrieval(cells[:2]),
    ]
    ids: list[str] = []
    classes: dict[str, str] = {}
    for number, figure in enumerate(drawn):
        piece = svg.inline(figure, f"p{number}", 'what "it" shows', classes)
        tree = ET.fromstring(piece)
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
        assert style.INK not in piece
        assert "script" not in piece
    assert len(ids) == len(set(ids))
    assert any("fill:currentColor" in text for text in classes)
    assert not any(style.INK in text or "font-family" in text for text in classes)


def test_labels_are_text(tmp_path: Path) -> None:
    cells = [made_up(label, 1) for label in ("a$b^", "_hidden", "<b>&", "名前")]
    piece = svg.inline(pictures.accuracy(cells, "50 $ & more $"), "p", "x", {})
    shown = ["".join(t.itertext()).strip() for t in ET.fromstring(piece).iter() if t.tag.endswith("text")]
    for text in ("a$b^", "_hidden", "<b>&", "名前", "50 $ & more $"):
        assert text in shown
    pictures.save(pictures.accuracy(cells), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 300


def test_one_experience_and_many_methods_can_be_drawn() -> None:
    cells = [made_up(f"method {n}", n, experiences=1, stacks=False) for n in range(14)]
    for figure in (pictures.accuracy(cells), pictures.forgetting(cells), heat_maps.matrices(cells)):
        assert svg.inline(figure, "p", "x", {})


def test_a_method_has_one_look_whatever_is_drawn_with_it() -> None:
    every = style.looks(methods())
    for name in methods():
        assert style.looks([name])[name] == every[name]
        assert style.looks(["another", name, "a third"])[name] == every[name]
        assert style.looks({"mine": name})["mine"] == every[name]
    assert style.looks(["another"]) == style.looks(["another"])
    many = style.looks(["mos", *[f"method {n}" for n in range(30)]])
    assert len({*many.values()}) == 31


@pytest.mark.parametrize("names", [methods(), [config.PLAIN, *wrappers()]], ids=["methods", "wrappers"])
def test_looks_of_what_is_compared_differ(names: Iterable[str]) -> None:
    found = style.looks(names)
    assert len({*found.values()}) == len(found)
    assert {*names} <= style.KNOWN.keys(), "give a new method or wrapper a place of its own"


def test_a_form_of_a_method_takes_its_colour_where_all_are_taken() -> None:
    names = {**{name: name for name in style.KNOWN if name in methods()}, "mos, faster": "mos"}
    found = style.looks(names)
    assert found["mos, faster"].colour == found["mos"].colour
    assert found["mos, faster"].dash != found["mos"].dash


def test_what_is_drawn_of_a_method_is_marked_and_named() -> None:
    cells = [made_up(label, seed) for label in ("mos", "ridge") for seed in (1, 2)]
    for figure in (pictures.accuracy(cells), pictures.forgetting(cells), pictures.cost(cells)):
        tree = ET.fromstring(svg.inline(figure, "p", "x", {}))
        marked: dict[str, list[str]] = {}
        for element in tree.iter():
            if "data-series" in element.attrib:
                marked.setdefault(element.attrib["data-series"], []).append("".join(element.itertext()).strip())
        assert len(marked) == 2
        names = {text for texts in marked.values() for text in texts if text}
        assert names == {"mos", "ridge"}
        assert all(len(texts) >= 2 for texts in marked.values()), "the line, or the point, and its name"


def test_names_at_lines_do_not_cover_one_another() -> None:
    figure = pictures.accuracy([made_up(f"method {n}", 1) for n in range(12)])
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 12
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))


def test_matrices_share_one_colour_bar() -> None:
    figure = heat_maps.matrices([made_up(f"method {n}", 1) for n in range(5)])
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 5
    assert len([axes for axes in figure.axes if axes.get_label() == "<colorbar>"]) == 1
    assert len({image.get_clim() for axes in shown for image in axes.images}) == 1
