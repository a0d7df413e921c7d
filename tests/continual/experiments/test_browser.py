"""The report's page in a real browser: phone and desktop, light and dark."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.experiments import report
from continual.experiments.comparison import boards
from continual.experiments.run_folder import collect
from continual.methods import methods
from tests.support.simulated_runs import made_up, run_folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Shows the page in a frame of some width, for a window cannot be as narrow as a phone, and measures it there.
PROBE = """<!DOCTYPE html><body style="margin: 0">
<iframe src="report.html" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll(".frame, figure, svg, p, h1")].filter(box => box.getClientRects().length);
  const right = Math.max(...boxes.map(box => box.getBoundingClientRect().right));
  document.body.textContent = JSON.stringify([page.documentElement.scrollWidth, right]);
}}
</script></body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture
def page(equimos: Callable[..., Any], tmp_path: Path) -> Path:
    cells = [made_up(label, 1, 5, stacks=label == "mos") for label in ("mos", "a method with quite a long name")]
    result = equimos("report", run_folder(tmp_path / "run", cells), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "out" / "report.html"


def headless(browser: str, folder: Path, *words: str) -> str:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_at_the_side(browser: str, page: Path, width: int) -> None:
    probe = page.with_name("probe.html")
    probe.write_text(PROBE.format(width=width))
    text = headless(browser, page.parent, "--window-size=1400,900", "--dump-dom", probe.as_uri())
    scroll, right = (float(x) for x in text.split("[", 1)[1].split("]", 1)[0].split(","))
    assert scroll <= width
    assert right <= width


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(browser: str, page: Path, dark: bool, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    headless(browser, tmp_path, *scheme, "--window-size=1280,2000", f"--screenshot={picture}", page.as_uri())
    with Image.open(picture) as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    ground, ink = np.median(grey), (grey.max() if dark else grey.min())
    assert (ground < 60) if dark else (ground > 230)
    assert abs(ink - ground) > 150
    # The curves are drawn in the pictures below the table: some pixels there have a colour.
    with Image.open(picture) as image:
        assert (np.ptp(np.asarray(image.convert("RGB"), dtype=int), axis=2) > 60).sum() > 1000


@pytest.fixture(scope="module")
def report_of_twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two benchmarks of twelve methods with three seeds."""
    folder, runs = tmp_path_factory.mktemp("twelve"), []
    for experiences in (10, 5):
        cells = [
            replace(made_up(label, 9 * n + seed, experiences, stacks=label == "mos", right=0.4 + 0.04 * n), seed=seed)
            for n, label in enumerate((*[*methods()][-11:], "mos, without refinement"))
            for seed in (1, 2, 3)
        ]
        cells = [replace(cell, method=cell.label.split(",")[0], settings={}) for cell in cells]
        far = {"weights": f"{'a_folder/' * 9}weights.safetensors"}
        title, stream = f"{experiences} experiences", {"classes": experiences}
        path = run_folder(folder / str(experiences), cells, title=title, stream=stream, backbone=far)
        runs.append(collect(path))
    report.write_report(boards(runs), runs, folder / "out")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def driver(browser: str) -> Iterator[Any]:
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(driver: Any, report_of_twelve: Path) -> Iterator[Callable[..., Any]]:
    """Open the page in a window of some size; any error or request beyond the file fails the test."""
    wrong: list[str] = []
    contexts = []

    def show(width: int, height: int, **options: Any) -> Any:
        contexts.append(driver.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(report_of_twelve.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.slow
def test_two_benchmarks_of_twelve_methods_are_eight_phone_screens(opened: Callable[..., Any]) -> None:
    page = opened(390, 844)
    assert page.locator(".legend li").count() == 12
    assert page.evaluate("document.documentElement.scrollHeight") <= 8 * 844
    page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    words = page.locator(".conclusion").first.inner_text()
    assert "the highest average accuracy" in words
    assert page.evaluate("document.querySelector('.conclusion').getBoundingClientRect().bottom") < 844


@pytest.mark.slow
def test_a_clipped_table_has_an_edge_and_a_frozen_column(opened: Callable[..., Any]) -> None:
    page = opened(390, 844)
    frame, first = page.locator(".frame").first, page.locator("tbody th").first
    assert frame.get_attribute("class") == "frame more"
    before = first.bounding_box()
    page.evaluate("document.querySelector('.scroll').scrollLeft = 120")
    page.wait_for_function("document.querySelector('.frame').classList.contains('less')")
    assert first.bounding_box() == before
    page.evaluate("document.querySelector('.scroll').scrollLeft = 9999")
    page.wait_for_function("!document.querySelector('.frame').classList.contains('more')")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_clipped_without_an_edge(opened: Callable[..., Any], width: int) -> None:
    page = opened(width, 844)
    page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    clipped = (
        "box.clientWidth && box.scrollWidth - box.clientWidth > 1 && getComputedStyle(box).overflowX !== 'visible'"
    )
    boxes = f"[...document.querySelectorAll('body *')].filter(box => {clipped})"
    page.wait_for_function(f"{boxes}.every(box => box.parentElement.matches('.frame.more'))", timeout=5000)
    assert width > 390 or page.evaluate(f"{boxes}.length"), "a phone is narrower than a table"


@pytest.mark.slow
def test_tables_are_sorted_by_a_column_and_put_back(opened: Callable[..., Any]) -> None:
    page = opened(1280, 900)
    table = page.locator("table").first
    button = table.locator("thead button").nth(1)
    column = "[...document.querySelector('table').tBodies[0].rows].map(row => row.cells[1].textContent)"
    before = page.evaluate(column)
    button.click()
    values = [float(text.split()[0]) for text in page.evaluate(column)]
    assert values == sorted(values, reverse=True), "the best first"
    assert table.locator("th[aria-sort=descending]").count() == 1
    button.click()
    assert [float(text.split()[0]) for text in page.evaluate(column)] == sorted(values)
    button.click()
    assert page.evaluate(column) == before
    assert table.locator("th[aria-sort]").count() == 0
    stacks = table.locator("thead button", has_text="adapter-retrieval accuracy")
    stacks.click()
    last = page.evaluate("[...document.querySelector('table').tBodies[0].rows].at(-1).textContent")
    assert "–" in last


@pytest.mark.slow
def test_a_method_can_be_set_apart_in_all_pictures(opened: Callable[..., Any]) -> None:
    page = opened(1280, 900)
    entry = page.locator(".legend button", has_text="strata")
    series = entry.get_attribute("data-series")
    shown = "(series, dim) => [...document.querySelectorAll('figure [data-series]')]"
    shown += ".every(part => part.classList.contains('dim') === (part.dataset.series !== series && dim))"
    entry.click()
    page.mouse.move(1, 1)
    assert page.evaluate(f"([series, dim]) => ({shown})(series, dim)", [series, True])
    assert entry.get_attribute("aria-pressed") == "true"
    page.locator("h1").click()
    entry.click()
    entry.evaluate("button => button.blur()")
    page.mouse.move(1, 1)
    assert page.evaluate(f"([series, dim]) => ({shown})(series, dim)", [series, False])
    page.locator(f"figure g[data-series='{series}'] text").first.hover()
    assert page.evaluate(f"([series, dim]) => ({shown})(series, dim)", [series, True])
    assert page.locator("tr.focus th").first.inner_text() == "strata"
