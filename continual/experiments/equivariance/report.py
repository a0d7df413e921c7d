"""Results of a study as a table (terminal, Markdown, CSV, JSON) and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from continual import files
from continual.console import show_rows
from continual.errors import InputError
from continual.escaping import markdown, plot
from continual.experiments import tables
from continual.experiments.equivariance.symmetry import Measures
from equivariant.style import AFTER, BEFORE, FAINT, ink, looks

#: figure -> heading; all are shares
COLUMNS = {
    "upright": "untransformed [%]",
    "turned": "transformed [%]",
    "consistency": "same answer over the orbit [%]",
    "flips": "orbit flips [%]",
}


@dataclass(frozen=True)
class Row:
    """One row with one seed."""

    label: str
    wrapper: str
    recipe: str | None
    seed: int
    measures: Measures


@dataclass(frozen=True)
class Results:
    """All rows of a comparison."""

    title: str
    group: str
    rows: list[Row]


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table's lines: mean, and ± the standard deviation where there are several seeds."""
    body = []
    for label in dict.fromkeys(row.label for row in rows):
        same = [row for row in rows if row.label == label]
        body.append([label, *[_text([getattr(row.measures, key) for row in same]) for key in COLUMNS]])
    return body


def _text(shares: Sequence[float]) -> str:
    values = 100 * np.array(shares)
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def show(found: Results, title: str) -> None:
    """Print the table."""
    show_rows(lines(found.rows), "", *COLUMNS.values(), title=title)


def as_csv(found: Results) -> str:
    """Return one line per row and seed, with the accuracy by element."""
    elements = list(found.rows[0].measures.by_element)
    headings = ["row", "wrapper", "recipe", "seed", *COLUMNS, *[f"accuracy {name}" for name in elements]]
    body: list[list[object]] = [[*headings]]
    for row in found.rows:
        shares = [getattr(row.measures, key) for key in COLUMNS] + [row.measures.by_element[name] for name in elements]
        body.append([row.label, row.wrapper, row.recipe, row.seed, *shares])
    return files.csv_text(body)


def write(found: Results, folder: Path) -> None:
    """Write results.json, results.csv, results.md and results.png into a folder."""
    table = tables.markdown(tables.Table(["", *COLUMNS.values()], lines(found.rows)))
    files.write_json(folder / "results.json", asdict(found))
    files.write_text(folder / "results.csv", as_csv(found))
    files.write_text(folder / "results.md", f"# {markdown(found.title)}\n\n{table}")
    picture(found, folder / "results.png")


def picture(found: Results, path: Path) -> None:
    """Draw accuracy untransformed and transformed, accuracy by element, and the mean weight of each element."""
    # The object interface, not pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    rows, labels = found.rows, list(dict.fromkeys(row.label for row in found.rows))
    # Those that weigh all elements alike have nothing to show.
    weighted = {label for label in labels if np.ptp(list(_mean(rows, label, "weights").values()) or [0.0]) > 1e-6}
    figure = Figure(figsize=(5 * (2 + bool(weighted)), 1.6 + 0.45 * max(6, len(labels))), layout="constrained")
    panels = figure.subplots(1, 2 + bool(weighted))
    places = np.arange(len(labels))
    series = ((-0.2, "upright", "untransformed", BEFORE), (0.2, "turned", "transformed", AFTER))
    for shift, key, name, colour in series:
        values = [[100 * getattr(row.measures, key) for row in rows if row.label == label] for label in labels]
        spread = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
        panels[0].barh(places + shift, [np.mean(v) for v in values], 0.38, xerr=spread, label=name, color=colour)
    panels[0].set_yticks(places, [plot(label) for label in labels])
    panels[0].invert_yaxis()
    panels[0].set(xlabel="accuracy [%]", xlim=(0, 100))
    known = looks({row.label: row.wrapper for row in rows})
    for label in labels:
        style = {**known[label].line, "markersize": 4, "label": plot(label)}
        accuracy = _mean(rows, label, "by_element")
        panels[1].plot(list(accuracy), [100 * v for v in accuracy.values()], **style)
        if label in weighted:
            weights = _mean(rows, label, "weights")
            panels[2].plot(list(weights), list(weights.values()), **style)
    panels[1].set(xlabel=f"test images transformed by an element of {found.group}", ylabel="accuracy [%]")
    if weighted:
        panels[2].axhline(1 / len(weights), color=FAINT, linewidth=0.8, linestyle=":")
        panels[2].set(xlabel=f"element of {found.group}", ylabel="mean weight, images as they are")
    for axes in panels:
        ink(axes)
        axes.legend(frameon=False, fontsize="small")
    figure.suptitle(plot(found.title))
    with files.written(path, InputError) as place:
        figure.savefig(place, dpi=130, format="png")


def _mean(rows: Sequence[Row], label: str, key: str) -> dict[str, float]:
    found = [getattr(row.measures, key) for row in rows if row.label == label]
    return {name: float(np.mean([values[name] for values in found])) for name in found[0]}
