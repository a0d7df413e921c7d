"""Pictures as parts of a page: SVG that takes the page's text colour and font, on light and on dark ground."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from continual.escaping import terminal
from equivariant.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAG = re.compile(r"<[^>]*>")
STEP = re.compile(r"\s*\b([A-Za-z])\s+")  #: a letter of a path, with the space around it


def inline(figure: Figure, name: str, description: str, classes: dict[str, str]) -> str:
    """Return an SVG element for a page; `name` and `classes` are as in `_piece`."""
    import matplotlib

    text = io.StringIO()
    with quiet(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _piece(text.getvalue(), name, description, classes)


@contextmanager
def quiet() -> Iterator[None]:
    """Letters that matplotlib's font lacks are shown by the browser's, and as boxes in a PNG: no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _piece(svg: str, name: str, description: str, classes: dict[str, str]) -> str:
    """Make a picture as matplotlib writes it in SVG a piece of a page: small, in the page's own colour and font.

    `name` sets its ids apart from those of other pictures on the page. Styles are in `classes`, style to class, which
    all pictures share and the page writes down; what is drawn in INK takes the page's text colour. Coordinates are
    rounded to a hundredth of a point. Groups without attributes, names nothing refers to and white space are left out.
    What belongs to a series (`series-NAME` is the id that matplotlib was given) is marked by `data-series="NAME"`.
    """
    svg = re.sub(r">\s+<", "><", svg[svg.index("<svg") :])
    svg = re.sub(r"<defs><style.*?</style></defs>", "", svg, count=1, flags=re.DOTALL)  # the page's own
    ids = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]*)', svg))
    short = {long: f"{name}-{number}" for number, long in enumerate(ids)}
    groups: list[bool] = []  # of those open, whether they are kept

    def letter(match: re.Match[str]) -> str:
        return match[1]

    def styled(match: re.Match[str]) -> str:
        style = re.sub(r" ?font-family: [^;]*;| (?=\S+:)|(?<=:) ", "", match[1].replace(INK, "currentColor"))
        return f' class="{classes.setdefault(style, f"s{len(classes)}")}"'

    def smaller(match: re.Match[str]) -> str:
        tag = re.sub(r' id="series-(\w+)"', r' data-series="\1"', match[0])
        tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", tag)
        if tag.startswith("<g") and not tag.endswith("/>"):
            groups.append(tag != "<g>")
        if tag in ("<g>", "<g/>") or (tag == "</g>" and not groups.pop()):
            return ""
        tag = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
        tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
        tag = re.sub(r' d="([^"]*)"', lambda m: f' d="{STEP.sub(letter, m[1]).strip()}"', tag)
        tag = re.sub(r' style="([^"]*)"', styled, tag)
        return re.sub(r'(href="|url\()#([^")]*)', lambda m: f"{m[1]}#{short[m[2]]}", tag)

    said = f'role="img" aria-label="{escape(terminal(description), quote=True)}"'
    return re.sub(r'width="[^"]*" height="[^"]*"', lambda _: said, TAG.sub(smaller, svg), count=1)
