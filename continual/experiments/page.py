"""A report as one HTML page that needs nothing else: no scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continual import escaping
from continual.console import count
from continual.experiments import svg
from continual.experiments.comparison import Board
from continual.experiments.conclusion import conclusion
from continual.experiments.config import networks_of
from continual.experiments.gallery import gallery
from continual.experiments.pictures import Looks, looks_of, series_name
from continual.experiments.results import by_label
from continual.experiments.run_folder import Run
from continual.experiments.tables import ABSENT, Table, further_table, results_table
from continual.metrics import measures
from continual.metrics.accuracy import seen_accuracy
from continual.metrics.calibration import last_reliability, with_probabilities
from continual.metrics.cell import Cell

#: how the legend draws matplotlib's dashes
DASHES = {"-": "", "--": "6 3", ":": "2 2", "-.": "6 2 2 2"}


def page(boards: Sequence[Board], runs: Sequence[Run]) -> str:
    """Return the page's HTML."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("continual.experiments", ".")
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=strict, finalize=escaping.page
    )
    known = looks_of([cell for board in boards for cell in board.cells])
    shown: list[dict[str, Any]] = []
    classes: dict[str, str] = {}
    for number, board in enumerate(boards):
        drawn = [
            {
                "svg": Markup(svg.inline(p.figure, f"b{number}p{place}", p.caption, classes)),
                "caption": p.caption,
                "first": p.first,
            }
            for place, p in enumerate(gallery(board.cells, known))
        ]
        shown.append(
            {
                "of": board,
                "summary": _summary(board),
                "conclusion": conclusion(board.cells),
                "results": results_table(board.cells, board.protocol),
                "pictures": drawn,
                "further": further_table(board.cells),
                "published": _published(board),
                "experiences": _experiences(board.cells),
                "reliability": _reliability(board.cells),
            }
        )
    title = boards[0].title if len(boards) == 1 else f"{len(boards)} benchmarks"
    return environment.get_template("page.html").render(
        title=title,
        boards=shown,
        classes=classes,
        legend=_legend(known),
        series={label: series_name(label).removeprefix("series-") for label in known},
        meanings=_meanings(boards),
        runs=[_provenance(run) for run in runs],
    )


def _legend(known: Looks) -> list[dict[str, str]]:
    return [{"label": label, "colour": look.colour, "dash": DASHES[look.dash]} for label, look in known.items()]


def _meanings(boards: Sequence[Board]) -> dict[str, str]:
    """Say what each metric that some board has a figure of means, and which direction is better."""
    said = {None: "", True: "; higher is better", False: "; lower is better"}
    found = {
        metric.heading.partition(" [")[0]: metric.summary + said[metric.higher_is_better]
        for board in boards
        for metric in measures(board.cells)
        if metric.table and any(metric.figure(cell) is not None for cell in board.cells)
    }
    return {
        **found,
        "±": "the standard deviation over the seeds (n - 1)",
        ABSENT: "no such figure, or it means nothing",
    }


def _summary(board: Board) -> str:
    cell, backbones = board.cells[0], networks_of(board.config)
    parts = (
        f"{count(sum(cell.class_counts), 'class')} in {count(len(cell.class_counts), 'experience')}",
        f"{sum(cell.test_counts)} test images",
        f"data: {board.config['data']['source']}",
        f"backbone: {' + '.join(one.get('name') or Path(one.get('weights') or '').name for one in backbones)}",
        f"{'seeds' if len(board.seeds) > 1 else 'seed'} {', '.join(map(str, board.seeds))}",
    )
    return " · ".join(parts)


def _published(board: Board) -> Table | None:
    if board.protocol is None:
        return None
    found = board.protocol.figures
    lines = [[f.name, f"{100 * f.average:.2f}", f"{100 * f.final:.2f}", f.source.text] for f in found]
    return Table(["method", "published Ā [%]", "published final [%]", "source"], lines)


def _experiences(cells: Sequence[Cell]) -> Table:
    """Return the mean accuracy on all classes seen after each experience, a line per label."""
    lines = [
        [label, *[f"{100 * value:.1f}" for value in np.mean([seen_accuracy(cell) for cell in alike], axis=0)]]
        for label, alike in by_label(cells).items()
    ]
    return Table(["after experience", *[str(n) for n in range(1, len(cells[0].evaluations) + 1)]], lines)


def _reliability(cells: Sequence[Cell]) -> Table:
    """Return, for every label and bin of confidence, the images, the mean confidence and the share answered right."""
    lines = []
    for label, alike in by_label(with_probabilities(cells)).items():
        table = last_reliability(alike)
        for place, (images, confidence, right) in enumerate(table):
            edges = f"{100 * place / len(table):.1f} to {100 * (place + 1) / len(table):.1f}"
            means = [f"{100 * x / images:.1f}" if images else ABSENT for x in (confidence, right)]
            lines.append([label, edges, f"{images:.0f}", *means])
    return Table(["method", "confidence [%]", "images", "mean confidence [%]", "answered right [%]"], lines)


def _provenance(run: Run) -> dict[str, Any]:
    hashes = sorted({cell.backbone for cell in run.cells})
    facts = [("folder", str(run.path)), ("weights (SHA-256)", ", ".join(hashes))]
    for key, value in run.record.items():
        facts += _facts(key, value) if key != "config" else ()
    config, name = json.dumps(run.config, indent=2, ensure_ascii=False), run.config.get("title") or run.path.name
    return {"name": name, "missing": run.missing, "said": _in_words(run, hashes), "facts": facts, "config": config}


def _in_words(run: Run, hashes: Sequence[str]) -> str:
    """Say where results come from, as far as the run has noted it; earlier versions noted it at the top."""
    here = {**run.record, **(run.record.get("begun") or {})}
    device, git, versions = (here.get(key) or {} for key in ("device", "git", "versions"))
    parts = [f"The folder {run.path}"]
    if here.get("time"):
        parts.append(f"begun on {str(here['time'])[:10]}")
    if isinstance(device, Mapping) and device.get("name"):
        model = [device["model"]] if device.get("model") not in (None, device["name"]) else []
        about = ", ".join([*model, count(device.get("threads") or 1, "thread")])
        parts.append(f"run on {device['name']} ({about})")
    if versions:
        wanted = [f"{name} {versions[name]}" for name in ("equimos", "torch", "timm") if name in versions]
        parts.append(f"with {', '.join(wanted)}")
    if git.get("commit"):
        changed = count(git.get("changed_files") or 0, "changed file")
        parts.append(f"code at commit {git['commit'][:12]} with {changed}")
    parts.append(f"weights of the backbone {', '.join(text[:12] for text in hashes)} (begin of their SHA-256)")
    return ", ".join(parts) + "."


def _facts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Write whatever a run has noted about itself, a nested table as dotted names."""
    if isinstance(value, Mapping):
        for inner, nested in value.items():
            yield from _facts(f"{key}.{inner}", nested)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
