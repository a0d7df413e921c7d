"""`equimos report`: runs in; a page, tables and pictures out; what cannot be reported on is one line."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continual.errors import InputError
from continual.experiments import gallery, page, report, tables
from continual.experiments.comparison import boards
from continual.experiments.published import find
from continual.experiments.run_folder import collect
from continual.metrics.accuracy import average, final
from tests.support.simulated_runs import made_up, run_folder

Equimos = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    cells = [made_up(label, seed, stacks=label == "mos") for label in ("mos", "simple_cil") for seed in (1, 2)]
    return run_folder(tmp_path / "run", cells)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the first picture only, where a test is not about them."""

    def first(cells: Any) -> Any:
        return itertools.islice(gallery.gallery(cells), 1)

    monkeypatch.setattr(report, "gallery", first)
    monkeypatch.setattr(page, "gallery", first)


class Page(HTMLParser):
    """What a page asks for, and whether its elements close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href", "action", "data")]
        if tag not in ("meta", "link", "br", "hr", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_of_one_run(equimos: Equimos, run: Path) -> None:
    result = equimos("report", run)
    assert result.exit_code == 0, result.stderr
    assert "simple_cil" in result.stdout
    out = run / "report"
    assert str(out / "report.html") in result.stderr
    pictures = {path.stem for path in (out / "pictures").iterdir()}
    assert {"accuracy", "forgetting", "memory", "reliability", "matrix-0", "matrix-1", "retrieval-0"} <= pictures
    assert "retrieval-1" not in pictures
    with (out / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    cells = collect(run).cells
    finals = [final.figure(cell) for cell in cells if cell.label == "mos"]
    assert float(lines[0]["final"]) == pytest.approx(np.mean(finals))
    assert float(lines[0]["final_sd"]) == pytest.approx(np.std(finals, ddof=1))
    assert lines[1]["right_stack"] == ""
    with (out / "experiences.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 3
    assert "\\toprule" in (out / "table.tex").read_text()
    assert "| mos |" in (out / "table.md").read_text()
    assert "Without probabilities" not in (out / "table.md").read_text(), "both have some"

    # The page needs nothing else.
    text = (out / "report.html").read_text()
    found = Page(text)
    assert found.open == []
    assert "script" not in found.tags
    assert found.tags.count("svg") > 8
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in found.addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for provenance in ("vit_tiny_patch16_224", "2.9", str(run)):
        assert provenance in text


@pytest.mark.usefixtures("few_pictures")
def test_what_a_run_leaves_can_be_reported_on(equimos: Equimos, config: Path) -> None:
    out = config.parent / "out"
    assert equimos("run", config, "seeds=[1]", "--out", out).exit_code == 0
    result = equimos("report", out)
    assert result.exit_code == 0, result.stderr
    assert "left out" not in result.stderr
    text = (out / "report" / "report.html").read_text()
    assert collect(out).cells[0].backbone in text
    with (out / "report" / "table.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["final"]) == json.loads((out / "results.json").read_text())[0]["accuracy"][-1][0]
    assert float(line["inference_seconds"]) > 0
    # The run can go on with the report in its folder.
    assert equimos("run", config, "seeds=[1]", "--out", out).exit_code == 0


@pytest.mark.usefixtures("few_pictures")
def test_names_of_users_are_text_on_the_page(equimos: Equimos, tmp_path: Path) -> None:
    label = "<script>alert(1)</script> a_b & 50 % $x$ | \\"
    run = run_folder(tmp_path / "run", [made_up(label, 1)], title="<i>title</i> [bold]")
    result = equimos("report", run)
    assert result.exit_code == 0, result.stderr
    text = (run / "report" / "report.html").read_text()
    assert "<script" not in text
    assert "<i>" not in text
    assert "<i>title</i> [bold]" in result.stdout
    assert r"a\_b \& 50 \% \$x\$ | \textbackslash{}" in (run / "report" / "table.tex").read_text()
    assert r"$x$ \| " in (run / "report" / "table.md").read_text()


@pytest.mark.usefixtures("few_pictures")
def test_published_figures_stand_in_columns_of_their_own(equimos: Equimos, tmp_path: Path) -> None:
    cells = [
        replace(made_up(label, 1993, experiences=20), class_counts=[5] * 20, method=label.removesuffix("_tuned"))
        for label in ("mos", "mos_tuned", "finetune")
    ]
    run = run_folder(tmp_path / "run", cells, data={"source": "cifar100"})
    result = equimos("report", run, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "out" / "table.csv").open() as file:
        lines = {line["label"]: line for line in csv.DictReader(file)}
    assert [lines[label]["published_average"] for label in lines] == [str(93.30 / 100), "", ""]
    assert float(lines["mos"]["average"]) == pytest.approx(average.figure(cells[0]))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "CODA-Prompt" in text
    assert "arXiv 2412.09441, table 1" in text
    assert "Not the published conditions: backbone vit_tiny_patch16_224" in result.stderr
    assert "Without probabilities, and so without a calibration error: finetune." in result.stderr
    plain = tables.results_table(cells, None)
    shown = tables.results_table(cells, find("cifar100", [5] * 20))
    assert [h for h in shown.headings if h not in plain.headings] == ["published Ā [%]", "published final [%]"]


@pytest.mark.usefixtures("few_pictures")
def test_seeds_from_several_runs_come_together(equimos: Equimos, tmp_path: Path, run: Path) -> None:
    more = run_folder(tmp_path / "more", [made_up("mos", 3)])
    (board,) = boards([collect(run), collect(more)])
    assert board.seeds == [1, 2, 3]
    for _ in range(2):  # a report may be made anew in its folder
        result = equimos("report", run, more, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
    text = (tmp_path / "out" / "report.html").read_text()
    assert str(run) in text
    assert str(more) in text


@pytest.mark.usefixtures("few_pictures")
def test_runs_on_other_data_get_a_table_of_their_own(equimos: Equimos, tmp_path: Path, run: Path) -> None:
    other = run_folder(tmp_path / "other", [made_up("mos", 1, experiences=4)], stream={"classes": 1})
    result = equimos("report", run, other, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "Made up (run)" in result.stdout
    assert "Made up (other)" in result.stdout
    with (tmp_path / "out" / "table.csv").open() as file:
        assert [line["benchmark"] for line in csv.DictReader(file)] == ["Made up (run)"] * 2 + ["Made up (other)"]
    assert (tmp_path / "out" / "pictures" / "2-accuracy.png").is_file()


@pytest.mark.usefixtures("few_pictures")
def test_what_is_not_finished_is_left_out_and_named(equimos: Equimos, run: Path) -> None:
    values = json.loads((run / "cells" / "0.json").read_text())
    values[0]["evaluations"].pop()
    (run / "cells" / "0.json").write_text(json.dumps(values))
    result = equimos("report", run)
    assert result.exit_code == 0, result.stderr
    assert "left out: mos with seed 1\n" in result.stderr
    assert "mos with seed 1" in (run / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (dict(settings={"seed": 9, "lr": 0.1}), "lr is 0.1, not absent"),
        (dict(method="ridge"), "its method is ridge, not mos"),
        (dict(backbone="cd" * 32), "SHA-256 cdcdcdcdcdcd…, not ab…"),
        (dict(class_counts=[3, 2, 1]), "other numbers of classes"),
        (dict(seed=1), "'mos' with seed 1 is in"),
        (dict(label="new", seed=1, test_counts=[9, 9, 9]), "other images for seed 1"),
    ],
)
def test_cells_that_cannot_be_compared_are_refused(
    equimos: Equimos, tmp_path: Path, run: Path, changes: dict[str, Any], problem: str
) -> None:
    other = run_folder(tmp_path / "other", [replace(made_up("mos", 9), **changes)])
    result = equimos("report", run, other)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (run / "report").exists()


def test_a_backbone_that_each_seed_trains_differs(tmp_path: Path) -> None:
    cells = [made_up("mos", 1), replace(made_up("mos", 2), backbone="cd")]
    with pytest.raises(InputError, match="SHA-256"):
        boards([collect(run_folder(tmp_path / "a", cells))])
    boards([collect(run_folder(tmp_path / "b", cells, backbone={"pretrain": {"epochs": 1}}))])


def test_what_is_no_run_is_one_line(equimos: Equimos, tmp_path: Path, run: Path) -> None:
    def refused(folder: Path, problem: str, *words: Any) -> None:
        before = sorted(tmp_path.rglob("*"))
        result = equimos("report", folder, *words)
        assert result.exit_code == 2
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
        assert sorted(tmp_path.rglob("*")) == before

    refused(tmp_path / "nowhere", "is not there")
    refused(run / "run.json", "is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "it is empty")
    refused(run / "cells", "has no run.json")
    refused(run, "is not empty and holds no report", "--out", tmp_path)
    refused(run, "is a file", "--out", run / "run.json")
    broken = {
        "1.json": ["", "[{", "null", "[3]", '[{"label": "mos"}]', '{"a": 1}'],
        "0.json": [(run / "cells" / "0.json").read_text()[:-300], "\x00\x01"],
    }
    for name, texts in broken.items():
        whole = (run / "cells" / name).read_text()
        for text in texts:
            (run / "cells" / name).write_text(text)
            refused(run, f"{name} is damaged")
        (run / "cells" / name).write_text(whole)
    values = json.loads(whole)
    first, *later = values[0]["evaluations"]
    for key, value in {
        "answers": ["x"] * 10,
        "confidence": [[]],
        "stack": [0] * 9,
        "learning_seconds": "x",
        "new": 1,
    }.items():
        damaged = {**values[0], "evaluations": [{**first, key: value}, *later]}
        (run / "cells" / name).write_text(json.dumps([damaged]))
        refused(run, f"{name} is damaged")
    (run / "cells" / name).write_text(json.dumps([{**values[0], "label": "stranger"}]))
    refused(run, "does not name")
    for path in (run / "cells").iterdir():
        path.unlink()
    refused(run, "no cell is finished")
    for text in ("", "[]", "{}", '{"config": {}}', '{"config": {"methods": {}, "seeds": 3, "data": {}}}'):
        (run / "run.json").write_text(text)
        refused(run, "run.json is damaged")


@pytest.mark.parametrize("experiences", [1, 2])
def test_short_streams_have_no_figures_that_need_more(equimos: Equimos, tmp_path: Path, experiences: int) -> None:
    run = run_folder(tmp_path / "run", [made_up("ridge", 1, experiences, stacks=False)])
    result = equimos("report", run)
    assert result.exit_code == 0, result.stderr
    text = (run / "report" / "table.md").read_text()
    assert ("forgetting" in text) == (experiences > 1)
    assert "nan" not in text
    assert not re.search(r"\b(nan|None)\b", (run / "report" / "report.html").read_text())


def test_a_method_is_not_taken_for_a_variant_of_another(tmp_path: Path) -> None:
    cells = [made_up(label, seed, stacks=False) for label in ("slca", "slca, slower") for seed in (1, 2)]
    run = collect(run_folder(tmp_path / "run", cells))
    assert run.missing == ()
    assert [cell.label for cell in run.cells] == ["slca", "slca", "slca, slower", "slca, slower"]
