r"""Text of strangers (names of classes, files and configs), made harmless for where it is written to.

Each destination has one function, which every writer of that kind calls: `terminal`, `markdown`, `latex`,
`latex_comment`, `csv_cell`, `plot` and `page`. JSON needs none: `json.dumps` writes such characters as `\u…`.
"""

from __future__ import annotations

import re
import unicodedata

#: what could move the cursor, end a line, or change the order in which others are read
_ACTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
#: what begins a formula in a spreadsheet, also where it looks wide
_FORMULA = tuple("=+-@\t\r")
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "Ā": r"$\bar{A}$", "–": "--", "³": "$^3$", "α": r"$\alpha$", "λ": r"$\lambda$",
}  # fmt: skip


def terminal(text: str) -> str:
    r"""Return text of one line that a terminal shows and does not obey: control and bidi characters are written out.

    >>> terminal("rose\n\x1b[2Jerror"), terminal("été 玫瑰 👩‍🔬")
    ('rose\\n\\x1b[2Jerror', 'été 玫瑰 👩\u200d🔬')
    """
    return _ACTIVE.sub(lambda found: ascii(found[0])[1:-1], text)


def markdown(text: str) -> str:
    r"""Return text of one line for Markdown, in a table's cell too: no HTML, code, link or picture begins in it.

    >>> markdown("a|b <b> [%] ![x](y)")
    'a\\|b \\<b\\> [%] \\![x\\](y)'
    """
    return re.sub(r"[\\`|<>&]|!(?=\[)|\](?=[(\[:])", lambda found: f"\\{found[0]}", terminal(text))


def latex(text: str) -> str:
    r"""Return text of one line for LaTeX.

    >>> latex("50 % of a_b ± 1"), latex("[1em] \\input{x}")
    ('50 \\% of a\\_b $\\pm$ 1', '{[}1em] \\textbackslash{}input\\{x\\}')
    """
    text = terminal(text)
    # At the start of a row, these would be an argument of the line break before it.
    first = f"{{{text[0]}}}" if text[:1] in ("[", "*") else _LATEX.get(text[:1], text[:1])
    return first + "".join(_LATEX.get(c, c) for c in text[1:])


def latex_comment(text: str) -> str:
    r"""Return a line of comment for LaTeX; no character in it ends the line.

    >>> latex_comment("title\n\\input{x}")
    '% title\\n\\input{x}'
    """
    return f"% {terminal(text)}"


def csv_cell(value: object) -> object:
    r"""Return a cell that a spreadsheet does not run as a formula: text that looks like one begins with an apostrophe.

    >>> csv_cell("=1+1"), csv_cell("-5"), csv_cell(-5), csv_cell("a\nb"), csv_cell(None)
    ("'=1+1", "'-5", -5, 'a\\nb', None)
    """
    if not isinstance(value, str):
        return value
    begin = unicodedata.normalize("NFKC", value.lstrip()[:1])
    return ("'" if begin.startswith(_FORMULA) or value.startswith(_FORMULA) else "") + terminal(value)


def plot(text: str) -> str:
    r"""Return text that matplotlib draws as it is: not as mathematics, nor as a label to hide.

    >>> plot("_a"), plot("$x$")
    (' _a', '\\$x\\$')
    """
    text = terminal(text)
    return (f" {text}" if text.startswith("_") else text).replace("$", r"\$")


def page(value: object) -> object:
    r"""Return what an HTML page shows, before the template escapes it as HTML; what is HTML already stays.

    >>> page("a" + chr(0x202E) + "b"), page(1)
    ('a\\u202eb', 1)
    """
    return "\n".join(map(terminal, value.split("\n"))) if type(value) is str else value
