"""`equimos report`: runs in; a page, tables and pictures out; what cannot be reported on is one line."""

from __future__ import annotations

import csv
import io
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
from rich.console import Console

from continual.errors import InputError
from continual.experiments import gallery, page, report, tables
from continual.experiments.comparison import boards
from continual.experiments.conclusion import conclusion, paired_interval
from continual.experiments.published import find
from continual.experiments.run_folder import collect
from continual.metrics.accuracy import average, final, forgetting
from continual.metrics.calibration import calibration_error
from tests.support.simulated_runs import made_up, run_folder

Equimos = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    cells = [made_up(label, seed, stacks=label == "mos") for label in ("mos", "simple_cil") for seed in (1, 2)]
    return run_folder(tmp_path / "run", cells)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the first picture only, where a test is not about them."""

    def first(cells: Any, known: Any = None) -> Any:
        return itertools.islice(gallery.gallery(cells, known), 1)

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
    assert {"accuracy", "cost", "forgetting", "memory", "reliability", "matrices", "retrieval"} <= pictures
    with (out / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    cells = collect(run).cells
    finals = [final.figure(cell) for cell in cells if cell.label == "mos"]
    assert float(lines[0]["final"]) == pytest.approx(np.mean(finals))
    assert float(lines[0]["final_sd"]) == pytest.approx(np.std(finals, ddof=1))
    assert lines[1]["right_stack"] == ""
    with (out / "experiences.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 3
    with (out / "cells.csv").open() as file:
        each = {(line["label"], line["seed"]): line for line in csv.DictReader(file)}
    assert len(each) == 4
    assert float(each["mos", "1"]["final"]) == final.figure(cells[0])
    assert float(each["simple_cil", "1"]["calibration_error"]) >= 0
    assert "| mos |" in (out / "table.md").read_text()
    assert "Without probabilities" not in (out / "table.md").read_text(), "both have some"

    # The page needs nothing else.
    text = (out / "report.html").read_text()
    assert text.index('class="conclusion"') < text.index('class="legend"') < text.index("<table")
    found = Page(text)
    assert found.open == []
    assert found.tags.count("script") == 1
    assert "src=" not in text.replace("xlink:href", "")
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
    assert "<script>alert" not in text
    assert text.count("<script") == 1
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
    added = [h for h in shown.headings if h not in plain.headings]
    assert added == ["published Ā [%]", "published final [%]", "verdict, within 1 point"]
    off = 100 * average.figure(cells[0]) - 93.30
    assert shown.lines[0][-1].startswith(f"off by {off:+.1f} / ")
    assert [line[-1] for line in shown.lines[1:]] == ["–", "–"]
    assert lines["mos"]["verdict"] == shown.lines[0][-1]


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


@pytest.mark.usefixtures("few_pictures")
def test_latex_can_be_pasted_and_has_the_chosen_columns(equimos: Equimos, tmp_path: Path) -> None:
    cells = [made_up(label, seed, right=0.9 - 0.3 * n) for n, label in enumerate(("mos", "ridge")) for seed in (1, 2)]
    run = run_folder(tmp_path / "run", cells, title="50 % of a_b")
    assert equimos("report", run).exit_code == 0
    text = (run / "report" / "table.tex").read_text()
    assert text.splitlines()[1] == r"\begin{table}"
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption"))
    assert r"50 \% of a\_b: 6 classes in 3 experiences" in caption
    assert "2 seeds" in caption
    assert r"\label{tab:50-of-a-b-1}" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert r"forgetting [\%] $\downarrow$" in text
    best, other = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("mos", "ridge"))
    assert best.count(r"\textbf") >= 2
    assert r"& \textbf" not in other.split("&", 3)[1]
    assert equimos("report", run, "--columns", "final, memory").exit_code == 0
    text = (run / "report" / "table.tex").read_text()
    assert "final accuracy" in text
    assert "memory" in text
    assert "forgetting" not in text.split(r"\midrule")[0].split(r"\toprule")[1]
    result = equimos("report", run, "--columns", "finall")
    assert result.exit_code == 2
    assert "did you mean 'final'" in result.stderr


def _told(label: str, seed: int, right: float, method: str | None = None) -> Any:
    return replace(made_up(label, seed, experiences=4, right=right), method=method or label)


def test_the_conclusion_names_who_wins_and_how_sure_that_is() -> None:
    seeds = (1, 2, 3)
    clear = [_told(label, seed, right) for label, right in (("mos", 0.95), ("ridge", 0.2)) for seed in seeds]
    first, ends = conclusion(clear)
    ahead = [100 * (average.figure(a) - average.figure(b)) for a, b in zip(clear[:3], clear[3:], strict=True)]
    low, high = paired_interval(ahead) or (0, 0)
    assert first.startswith("mos has the highest average accuracy: ")
    assert (
        f"{np.mean(ahead):.1f} points above ridge (95 % interval {low:.1f} to {high:.1f}, paired over 3 seeds)" in first
    )
    assert "forgotten" in ends
    close = [_told("mos", seed, 0.7) for seed in seeds] + [
        replace(_told("ridge", seed + 9, 0.7), seed=seed) for seed in seeds
    ]
    assert "do not decide" in conclusion(close)[0]
    assert "one seed" in conclusion(clear[::3])[0]
    assert "no seed in common" in conclusion([clear[0], replace(clear[3], seed=8)])[0]
    assert conclusion(clear[:1])[0].startswith("mos: average accuracy")


def test_a_method_that_keeps_images_is_a_bound_and_not_the_best() -> None:
    cells = [_told("everything", 1, 1.0, "joint"), _told("mos", 1, 0.8), _told("ridge", 1, 0.3)]
    assert conclusion(cells)[0].startswith("mos has the highest")
    assert conclusion(cells)[-1].startswith("With all images kept, as a bound: Ā of everything ")
    table = tables.results_table(cells)
    column = table.headings.index(average.heading)
    assert {line for line, place in table.best if place == column} == {1}


def test_names_with_a_comma_are_told_apart_in_sentences(tmp_path: Path) -> None:
    cells = [_told(label, 1, 0.8, "joint") for label in ("joint, small", "joint", "joint, large")]
    run = run_folder(tmp_path / "run", [*cells, _told("mos, by ridge", 1, 0.9), _told("strata, D4, all views", 1, 0.3)])
    (run / "cells" / "0.json").unlink()
    found = collect(run)
    first, ends, bound = conclusion(found.cells)
    assert first.startswith("“mos, by ridge” has the highest")
    assert " points above “strata, D4, all views” (" in first
    assert re.match(r"At the end: “mos, by ridge” .*; “strata, D4, all views” ", ends)
    assert re.search(r": Ā of joint [0-9.]* %, “joint, large” ", bound)
    assert found.missing == ("“joint, small” with seed 1",)
    kept = "Kept images: joint, “joint, large”."
    report.write_report(boards([found]), [found], tmp_path / "out")
    for file in ("report.html", "table.md"):
        assert kept in (tmp_path / "out" / file).read_text()
    text = (tmp_path / "out" / "report.html").read_text()
    assert all(line in text for line in (first, ends, bound, found.missing[0]))
    assert "\nstrata, D4, all views & " in (tmp_path / "out" / "table.tex").read_text()


def test_best_values_are_bold_and_ties_are_both() -> None:
    cells = [made_up("mos", 1), made_up("slca", 1), made_up("finetune", 1, right=0.2)]
    table = tables.results_table(cells)
    for metric in (average, final):
        column = table.headings.index(metric.heading)
        assert {line for line, place in table.best if place == column} == {0, 1}
        assert table.arrows[column] == "↑"
    assert table.arrows[table.headings.index(forgetting.heading)] == "↓"
    assert tables.results_table(cells[:2]).best == frozenset(), "where all are alike none is the best"
    assert "| **" in tables.markdown(table)


def test_a_figure_that_means_nothing_is_a_dash() -> None:
    """A model without probabilities has no calibration."""
    cells = [made_up("mos", 1), made_up("finetune", 1, stacks=False)]
    cells[1] = replace(cells[1], evaluations=tuple(replace(one, confidence=None) for one in cells[1].evaluations))
    table = tables.results_table(cells)
    column = table.headings.index(calibration_error.heading)
    assert [line[column] == tables.ABSENT for line in table.lines] == [False, True]
    assert calibration_error.figure(cells[1]) is None
    only = tables.results_table(cells[1:])
    assert calibration_error.heading not in only.headings
    assert "reliability" not in {picture.name for picture in gallery.gallery(cells[1:])}


def test_a_narrow_terminal_shows_four_columns_in_eighty() -> None:
    cells = [
        made_up(label, seed) for label in ("finetune", "simple_cil", "mos, without any refinement") for seed in (1, 2)
    ]
    table = tables.results_table(cells, brief=True)
    assert len(table.headings) == 5
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(tables.terminal("Handwritten digits", table))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    for line in table.lines:
        assert any(all(value in shown for value in line[1:]) for shown in lines), "values are not wrapped"
    assert [heading[-1] for heading in table.shown_headings()[1:]] == ["↑", "↑", "↓", "↓"]


@pytest.mark.slow
def test_columns_that_one_benchmark_lacks_are_empty_there(tmp_path: Path) -> None:
    runs = [
        run_folder(tmp_path / "a", [made_up("mos", 1)]),
        run_folder(tmp_path / "b", [made_up("mos", 1, 4, groups=("C4",))], stream={"classes": 1}),
    ]
    found = [collect(run) for run in runs]
    report.write_report(boards(found), found, tmp_path / "out")
    with (tmp_path / "out" / "table.csv").open() as file:
        one, other = csv.DictReader(file)
    assert one["consistency C4"] == ""
    assert 0 <= float(other["consistency C4"]) <= 1
    assert float(one["final"]) == final.figure(found[0].cells[0])
