"""The tables and the picture of docs/no_up.md, from figures that no_up.py wrote, or `equimos run`.

python benchmarks/no_up_report.py benchmarks/results/no_up_* --picture docs/images/no_up.png

What `equimos run` wrote is kept by `continual.read_runs("runs/mos_aid").to_csv("no_up_mos_aid.csv")`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas
import typer

Records = list[dict[str, Any]]

NAMES = {"aid": "AID", "cifar10": "CIFAR-10", "tiny imagenet": "Tiny-ImageNet"}  #: of sets, in tables


def select(records: Records, row: str, count: int, column: str) -> Any:
    """Return a column of a row in percent, split by split."""
    own = {r["run"]: r[column] for r in records if (r["row"], r["per_class"]) == (row, count)}
    return 100 * np.array([own[run] for run in sorted(own)])


def records_of(path: Path) -> Records:
    """Return the figures of a file that no_up.py wrote, or of one of `continual.read_runs`."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    moved = {
        f"{metric} D4": column for metric, column in {"turned": "transformed", "consistency": "consistency"}.items()
    }
    found = pandas.read_csv(path).rename(columns={"label": "row", "final": "upright", **moved})
    found["run"] = found["run"].map(lambda run: Path(run).name)
    found["per_class"] = found["run"].str.split("-").str[0].astype(int)
    return found.to_dict("records")


def headline(sets: dict[str, Records], method: str) -> list[str]:
    """Return a table of what all views of D4 gain over plain, in points."""
    lines = ["| images | per class | plain, upright [%] | D4, all views [%] | gain, upright | gain, transformed |"]
    lines.append(f"| --- {5 * '| --: '}|")
    for name, records in sets.items():
        for count in sorted({r["per_class"] for r in records}, reverse=True):
            plain, moved = (select(records, method, count, column) for column in ("upright", "transformed"))
            every = select(records, f"{method}, D4 all views", count, "upright")
            if not len(plain):
                continue
            gains = [f"{gain.mean():+.1f} ± {gain.std(ddof=1):.1f}" for gain in (every - plain, every - moved)]
            lines.append(f"| {name} | {count} | {plain.mean():.1f} | {every.mean():.1f} | {' | '.join(gains)} |")
    return lines


def decided(sets: dict[str, Records]) -> list[str]:
    """Return a table of what `group="auto"` took, and how far it is below the better of its choices."""
    lines = ["| images | per class | method | D4 taken | plain [%] | D4 [%] | auto [%] | below the better |"]
    lines.append(f"| --- | --: | --- {5 * '| --: '}|")
    for name, records in sets.items():
        column = "transformed" if name.endswith("rotated") else "upright"
        for count in sorted({r["per_class"] for r in records}, reverse=True):
            for method in ("strata", "ridge"):
                rows = [method, f"{method}, D4 all views", f"{method}, auto"]
                plain, every, auto = (select(records, row, count, column) for row in rows)
                if len(auto):
                    own = [r for r in records if (r["row"], r["per_class"]) == (rows[2], count)]
                    taken = sum(r["choice"]["group"] is not None for r in own)
                    lost = max(plain.mean(), every.mean()) - auto.mean()
                    means = " | ".join(f"{values.mean():.1f}" for values in (plain, every, auto))
                    lines.append(f"| {name} | {count} | {method} | {taken} of {len(own)} | {means} | {lost:.1f} |")
    return lines


def draw(sets: dict[str, Records], path: Path) -> None:
    """Draw the gain of all views of D4 over plain strata, by images per class."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, column in zip(axes, ("upright", "transformed"), strict=True):
        for number, (name, records) in enumerate(sets.items()):
            counts = sorted({r["per_class"] for r in records})
            gains = [
                select(records, "strata, D4 all views", n, column) - select(records, "strata", n, column)
                for n in counts
            ]
            places = np.arange(len(counts)) + 0.2 * (number - (len(sets) - 1) / 2)
            means, spread = [gain.mean() for gain in gains], [gain.std(ddof=1) for gain in gains]
            axis.bar(places, means, 0.18, yerr=spread, label=name, capsize=2)
            axis.set_xticks(range(len(counts)), [str(n) for n in counts])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(
            xlabel="training images per class", title=f"test images {column if column == 'upright' else 'rotated'}"
        )
    axes[0].set(ylabel="gain of D4, all views [points]")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(
    figures: Annotated[list[Path], typer.Argument(help="What no_up.py wrote, no_up_SET.json.")],
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes.")] = None,
) -> None:
    """Print the tables, and draw."""
    every: dict[str, Records] = {}
    for path in figures:
        name = path.stem.removeprefix("no_up_").removeprefix("mos_").replace("_", " ")
        every.setdefault(NAMES.get(name, name), []).extend(records_of(path))
    sets = {name: records for name, records in every.items() if any(r["row"] == "strata" for r in records)}
    for method in ("strata", "ridge", "mos"):
        print(f"\n{method}\n", *headline(every, method), sep="\n")
    for name, records in sets.items():
        print(f"\n{name}\n")
        print(table(records))
    print("", *decided(every), sep="\n")
    if picture is not None:
        draw(sets, picture)


def table(records: Records) -> str:
    """Return a Markdown table of every row, mean and deviation over the splits."""
    lines = ["| per class | row | upright [%] | transformed [%] | same [%] | passes |", f"| --: | ---{4 * ' | --:'} |"]
    for count, label in dict.fromkeys((r["per_class"], r["row"]) for r in records):
        columns = [select(records, label, count, name) for name in ("upright", "transformed", "consistency")]
        cells = " | ".join(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in columns)
        passes = select(records, label, count, "passes").mean() / 100
        lines.append(f"| {count} | {label} | {cells} | {passes:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
