"""Years of use: a model that learns new classes every month, is corrected once, and forgets a class on purpose.

    OMP_NUM_THREADS=1 python benchmarks/year.py --images DIR --weights FILE --out OUT

`DIR` holds train/CLASS and test/CLASS. Every month the command `equimos learn` sees a folder with that month's classes
alone: no earlier picture is there. Afterwards the model file is asked about the test images of all classes it knows,
and about those of the next month, which it should call unknown. OUT gets year.json, year.md and year.png, and is
written again after every month; the model file stays there, too. Times are the processor's.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import arguments
from sklearn.metrics import roc_auc_score

import continual
from continual.cli import edits, learn
from continual.learning.feature_cache import FeatureCache
from continual.metrics.flips import flips
from equivariant.style import COLOURS, ink

RATE = 0.05  #: false alarms asked for
COLUMNS = {
    "month": "",
    "event": "",
    "classes": "",
    "accuracy": "%",
    "accuracy, first month": "%",
    "negative flips": "%",
    "positive flips": "%",
    "unknown AUROC": "%",
    "false alarms": "%",
    "unknown found": "%",
    "file": "MiB",
    "latency": "ms",
    "learning": "s",
}


def pictures(folder: Path, names: list[str], first: int, last: int) -> tuple[list[Path], list[str]]:
    """Return some images of each class, and their labels."""
    found = [(path, name) for name in names for path in sorted((folder / name).iterdir())[first:last]]
    return [path for path, _ in found], [name for _, name in found]


def month_folder(place: Path, paths: list[Path], labels: list[str]) -> Path:
    """Make the folder of one month: links, one folder per class."""
    for path, label in zip(paths, labels, strict=True):
        (place / label).mkdir(parents=True, exist_ok=True)
        (place / label / path.name).symlink_to(path.resolve())
    return place


class Diary:
    """Asks the model after every event, and writes down what it says."""

    def __init__(self, asked: argparse.Namespace, model: Path, first: list[str]) -> None:
        self.asked, self.model, self.first = asked, model, first
        self.rows: list[dict[str, Any]] = []
        self.cache, self.before = FeatureCache(), dict[Path, str]()

    def write(self, month: int, event: str, coming: list[str], seconds: float) -> dict[str, Any]:
        """Evaluate the model file as it is now; `coming` are classes it does not know."""
        learner = continual.load(self.model)
        test, known = self.asked.images / "test", [str(name) for name in learner.classes]
        paths, labels = pictures(test, known, 0, self.asked.test)
        mine = learner.predict(paths, cache=self.cache, false_alarm_rate=RATE)
        answers = dict(zip(paths, map(str, mine.labels), strict=True))
        right = [answers[path] == label for path, label in zip(paths, labels, strict=True)]
        old = [answer == name for answer, name in zip(mine.labels, labels, strict=True) if name in self.first]
        row: dict[str, Any] = {
            "month": month,
            "event": event,
            "classes": len(known),
            "accuracy": 100 * sum(right) / len(right),
            "accuracy, first month": 100 * sum(old) / len(old),
        }
        both = [(self.before[p], answers[p], name) for p, name in zip(paths, labels, strict=True) if p in self.before]
        if both:
            changed = flips(*zip(*both, strict=True))
            row |= {"negative flips": 100 * changed.negative, "positive flips": 100 * changed.positive}
        if coming:
            theirs = learner.predict(
                pictures(test, coming, 0, self.asked.test)[0], cache=self.cache, false_alarm_rate=RATE
            )
            assert mine.p_value is not None
            assert theirs.p_value is not None
            strange = [0] * len(paths) + [1] * len(theirs.labels)
            familiar = [*mine.p_value.tolist(), *theirs.p_value.tolist()]
            row["unknown AUROC"] = 100 * float(roc_auc_score(strange, [-value for value in familiar]))
            row["unknown found"] = 100 * float(theirs.unknown.float().mean())
        row["false alarms"] = 100 * float(mine.unknown.float().mean())
        row["file"] = self.model.stat().st_size / 2**20
        row["latency"] = 1000 * statistics.median(self._latency(learner, path) for path in paths[:: len(paths) // 10])
        row["learning"] = seconds
        self.rows.append({name: row.get(name) for name in COLUMNS})
        self.before = answers
        self.keep()
        return row

    def _latency(self, learner: continual.IncrementalLearner[Any], path: Path) -> float:
        started = time.process_time()
        learner.predict([path])
        return time.process_time() - started

    def keep(self) -> None:
        """Write the figures, the table and the picture."""
        out = self.asked.out
        settings = {name: str(value) for name, value in vars(self.asked).items() if name not in ("images", "out")}
        settings["weights"] = Path(settings["weights"]).name
        (out / "year.json").write_text(json.dumps({"settings": settings, "rows": self.rows}, indent=1) + "\n")
        heads = [name + (f" [{unit}]" if unit else "") for name, unit in COLUMNS.items()]
        lines = ["| " + " | ".join(heads) + " |", "| ---: | --- |" + " ---: |" * (len(heads) - 2)]
        for row in self.rows:
            cells = ["–" if v is None else f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()]
            lines.append("| " + " | ".join(cells) + " |")
        (out / "year.md").write_text("\n".join(lines) + "\n")
        draw(self.rows, out / "year.png")


def draw(rows: list[dict[str, Any]], place: Path) -> None:
    """Draw the curves over the months, with a line where the model was edited."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(2, 2)
    steps = list(range(1, len(rows) + 1))
    shown = [
        ("right answers [%]", ["accuracy", "accuracy, first month"]),
        ("changed answers [%]", ["negative flips", "positive flips"]),
        ("images of no known class [%]", ["unknown AUROC", "false alarms", "unknown found"]),
        ("relative to the first month", ["file", "latency"]),
    ]
    for panel, (title, names) in zip(panels.flat, shown, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            scale = rows[0][name] if title.startswith("relative") else 1
            points = [(step, row[name] / scale) for step, row in zip(steps, rows, strict=True) if row[name] is not None]
            panel.plot([x for x, _ in points], [y for _, y in points], marker=".", label=name, color=colour)
        for step, row in zip(steps, rows, strict=True):
            if row["event"] != "learn":
                panel.axvline(step, color="0.8", zorder=0)
        panel.set_xticks(steps, [str(row["month"]) if row["event"] == "learn" else "" for row in rows], fontsize=7)
        panel.set_title(title)
        ink(panel)
        panel.set_xlabel("month (grey: a correction, a class forgotten)", fontsize=8)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8)
    figure.savefig(place, dpi=110)


def correction(diary: Diary, label: str, month: int, coming: list[str]) -> None:
    """Correct wrong answers on pictures of a class that were not learned; `equimos correct`."""
    asked = diary.asked
    paths, _ = pictures(asked.images / "train", [label], asked.per_class, 3 * asked.per_class)
    answers = continual.load(diary.model).predict(paths).labels
    wrong = [path for path, answer in zip(paths, answers, strict=True) if answer != label][: asked.corrected]
    if not wrong:
        return
    started = time.process_time()
    edits.correct(wrong, label, diary.model, weights=[asked.weights], device="cpu")
    diary.write(month, f"correct {len(wrong)}", coming, time.process_time() - started)


def main() -> None:
    """Live through the months."""
    parser = arguments.parser(__doc__, "images", "weights", "out", "size", "per_class", test={"default": 10})
    parser.add_argument("--months", type=int, default=20)
    parser.add_argument("--classes", type=int, default=5, help="per month")
    parser.add_argument("--method", default="strata")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--corrected", type=int, default=5, help="most images in the correction, after 2/5 of the time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method")
    parser.add_argument("--seed", type=int, default=1993)
    asked = parser.parse_args()

    names = sorted(p.name for p in (asked.images / "train").iterdir() if p.is_dir())
    random.Random(asked.seed).shuffle(names)
    by_month = [names[k * asked.classes : (k + 1) * asked.classes] for k in range(asked.months)]
    shutil.rmtree(asked.out, ignore_errors=True)
    asked.out.mkdir(parents=True)
    model = asked.out / "model.safetensors"
    settings = [f"precision={asked.precision}", *asked.set]
    new: dict[str, Any] = {
        "method": asked.method,
        "weights": [asked.weights],
        "model_arg": [f"img_size={asked.size}", "crop_scale=[0.4, 1.0]"],
    }
    diary, forgotten = Diary(asked, model, by_month[0]), ""
    for month, classes in enumerate(by_month, 1):
        folder = month_folder(asked.out / "month", *pictures(asked.images / "train", classes, 0, asked.per_class))
        started = time.process_time()
        options: dict[str, Any] = {**new, "set_": [*settings, f"seed={asked.seed}"]} if month == 1 else {}
        learn.learn(folder, model, hold_out=0.0, yes=True, device="cpu", **options)
        shutil.rmtree(folder)
        coming = by_month[month] if month < asked.months else []
        coming = [*coming, forgotten] if forgotten else coming
        print(diary.write(month, "learn", coming, time.process_time() - started), flush=True)
        if month == max(1, asked.months * 2 // 5):
            correction(diary, by_month[month // 2][0], month, coming)
        if month == max(2, asked.months * 3 // 5):
            forgotten, started = by_month[1][0], time.process_time()
            edits.forget(forgotten, model, everywhere=True, device="cpu")
            diary.write(month, "forget one", [*coming, forgotten], time.process_time() - started)
    print((asked.out / "year.md").read_text())


if __name__ == "__main__":
    main()
