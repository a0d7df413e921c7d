"""The report's page in a real browser: phone and desktop, light and dark."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.simulated_runs import made_up, run_folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Shows the page in a frame of some width, for a window cannot be as narrow as a phone, and measures it there.
PROBE = """<!DOCTYPE html><body style="margin: 0">
<iframe src="report.html" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll(".scroll, figure, svg, p, h1")].filter(box => box.getClientRects().length);
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
