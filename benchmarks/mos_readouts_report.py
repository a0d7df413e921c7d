"""Tables of what `mos_readouts.py` measured, for each data set and number of images.

python benchmarks/mos_readouts_report.py mos_readouts.json --picture waterfall.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import arguments
import numpy as np
from measuring import spread, table
from mos_diagnosis_report import picture

Records = Sequence[Mapping[str, Any]]

STRATA = "frozen: strata"
#: what is shown -> the measure; each row of the first part changes one thing more
ROWS: dict[str, str] = {
    "MOS": "mos",
    "+ stage one by strata": "frozen: stage one",
    "+ its probabilities in the ensemble": "frozen: ensemble",
    "+ no refinement by the head": "frozen: ensemble, no refinement",
    "the last, adapters off": "frozen: ensemble, adapters off",
    "strata, half the head within the experience found": "frozen: head 0.5, adapters on, retrieved",
    "that, adapters off": "frozen: head 0.5, adapters off, retrieved",
    "strata, half the head within every experience": "frozen: head 0.5, adapters on, every",
    "this, adapters off": "frozen: head 0.5, adapters off, every",
    'strata on tokens under the first adapter (`stage_one="ridge"`)': "first: strata",
    "strata": STRATA,
}
#: of these, the ones that lead from MOS to what `stage_one="ridge"` answers by
STEPS = ["MOS", *(name for name in ROWS if name.startswith("+ ")), "strata", [*ROWS][-2]]
#: bounds of what is there to be gained
BOUNDS: dict[str, str] = {
    "experience found by MOS": "mos: experience",
    "experience found by strata": "frozen: experience",
    "experience known, MOS's head": "mos: experience known",
    "experience known, strata": "frozen: experience known",
    "experience known, strata and half a head": "frozen: head 0.5, adapters on, experience known",
    "the same, adapters off": "frozen: head 0.5, adapters off, experience known",
    "MOS or strata right": "frozen: either right",
    "experience found by strata under the first adapter": "first: experience",
    "experience known, strata under the first adapter": "first: experience known",
}


def curves(records: Records, measure: str) -> np.ndarray:
    """Return a measure in percent, (seeds, experiences)."""
    seeds = sorted({r["seed"] for r in records})
    own = {(r["seed"], r["experience"]): 100 * r[measure] for r in records}
    count = max(r["experience"] for r in records)
    return np.array([[own[seed, n] for n in range(1, count + 1)] for seed in seeds])


def rows(records: Records, names: Mapping[str, str]) -> list[list[str]]:
    """Return lines of what was measured: name, average, gain over strata, final accuracy, gain."""
    plain, lines = curves(records, STRATA), []
    for name, measure in names.items():
        if any(measure not in r for r in records):
            continue
        found = curves(records, measure)
        line = [name]
        for mine, its in ((found.mean(1), plain.mean(1)), (found[:, -1], plain[:, -1])):
            gain = "" if measure == STRATA else spread([*(mine - its)], "+.1f")
            line += [spread([*mine]), gain]
        lines.append(line)
    return lines


def main() -> None:
    """Print two tables for each data set, half and number of images."""
    parser = arguments.parser(__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--picture", type=Path, help="of the final accuracy with the most images per class")
    asked = parser.parse_args()
    records = json.loads(asked.figures.read_text(encoding="utf-8"))
    keys = ("data", "half", "per class", "classes", "epochs", "alpha")
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in records):
        own = [r for r in records if tuple(r[k] for k in keys) == key]
        seeds = sorted({r["seed"] for r in own})
        print(", ".join(f"{k} {v}" for k, v in zip(keys, key, strict=True)), f"seeds {seeds}\n")
        for title, names in (("readout", ROWS), ("bound", BOUNDS)):
            print(table([title, "Ā [%]", "against strata", "final [%]", "against strata"], rows(own, names)))
    if asked.picture is not None:
        most = max(r["per class"] for r in records if all(ROWS[name] in r for name in STEPS))
        own = [r for r in records if r["per class"] == most and all(ROWS[name] in r for name in STEPS)]
        steps = {name.split(" (")[0]: float(curves(own, ROWS[name])[:, -1].mean()) for name in STEPS}
        picture(steps, asked.picture, f"From MOS to its stage_one='ridge', {most} images per class")


if __name__ == "__main__":
    main()
