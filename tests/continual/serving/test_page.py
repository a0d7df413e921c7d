"""The page in a real browser: an image is chosen or dropped, on a phone and on a desk, by day and by night."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.methods.strata import StrataLearner
from continual.testing import coloured_squares
from tests.support.served import BACKBONE, learner_of, serving, taught

playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    learner_of([0, 1], [2, 3, 4]).save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu", *ARGUMENTS])
        yield chromium
        chromium.close()


def file(name: str, number: int = 0) -> dict[str, Any]:
    image = Image.fromarray(coloured_squares([number], 1)[0][0].permute(1, 2, 0).numpy()).resize((160, 120))
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def opened(browser: Any, address: str, size: dict[str, int] = DESK, dark: bool = False) -> Any:
    """A page that fails the test for any error or refusal of its own policy."""
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    page.on("console", lambda said: pytest.fail(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address)
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_an_image_is_answered(browser: Any, trained: Path, size: dict[str, int], dark: bool, tmp_path: Path) -> None:
    with serving(trained, false_alarm_rate=0.999) as (client, _):
        page = opened(browser, str(client.base_url), size, dark)
        page.set_input_files("#file", [file("a-rather-long-name-of-a-photo-from-a-telephone-2026-11-21.png", 3)])
        page.wait_for_selector(".answer")
        expected = client.post("/predict", files={"image": file("x", 3)["buffer"]}).json()["answers"][0]
        text = page.inner_text(".result").replace("\xa0", " ")
        assert page.inner_text(".answer") == expected["answer"]
        assert f"probability {100 * expected['probability']:.1f} %" in text
        assert f"answered by stack {expected['stack']}" in text
        assert "unknown" in page.inner_text(".flag")
        near = expected["nearest"][0]
        assert f"{near['class']}\n{near['similarity']:.3f}" in text
        assert page.inner_text("#model") == "mos, 5 classes"
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        picture = page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        page.close()
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=float)
    assert (np.median(grey) < 60) if dark else (np.median(grey) > 230)


def test_a_dropped_image_is_answered_and_a_text_gets_its_reason(browser: Any, trained: Path) -> None:
    drop = """([name, bytes, type]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name, {type}));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }"""
    with serving(trained) as (client, _):
        page = opened(browser, str(client.base_url))
        page.evaluate(drop, ["a.png", list(file("a.png")["buffer"]), "image/png"])
        page.wait_for_selector(".answer")
        page.evaluate(drop, ["<img src=x onerror=alert(1)>.txt", list(b"no picture"), "text/plain"])
        page.wait_for_selector(".error")
        assert "not an image" in page.inner_text(".error")
        assert page.locator(".result").count() == 2
        page.close()


def test_a_key_is_asked_for(browser: Any, trained: Path) -> None:
    with serving(trained, api_key="secret") as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file("a.png")])
        page.wait_for_selector("#key:visible")
        assert "API key" in page.inner_text(".error")
        page.fill("#secret", "secret")
        page.click("#key button")
        page.wait_for_selector(".answer")
        page.close()


def test_a_model_without_stacks_is_shown_without_them(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    taught(StrataLearner(BACKBONE), [0, 1], [2, 3, 4]).save(path)
    with serving(path, false_alarm_rate=0.999) as (client, _):
        page = opened(browser, str(client.base_url))
        page.set_input_files("#file", [file("a.png", 3)])
        page.wait_for_selector(".answer")
        expected = client.post("/predict", files={"image": file("x", 3)["buffer"]}).json()["answers"][0]
        text = page.inner_text(".result").replace("\xa0", " ")
        assert page.inner_text(".answer") == expected["answer"] == "class 3"
        assert f"probability {100 * expected['probability']:.1f} %" in text
        assert page.inner_text(".flag").startswith("unknown")
        assert "stack" not in text
        near = expected["nearest"][0]
        assert f"{near['class']}\n{near['similarity']:.3f}" in text
        assert page.inner_text("#model") == "strata, 5 classes"
