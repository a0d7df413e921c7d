"""Photograph the report and the page of `equimos serve`: on a phone and on a desk, light and dark.

    equimos run quickstart && equimos report runs/quickstart --out report
    python benchmarks/screenshots.py report/report.html docs/images/screens

The server has a model of drawn parts on a tiny ViT of random weights, so
its answers say nothing of accuracy. Needs playwright and a Chromium; takes half a minute.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
import typer
from page_loop import served
from PIL import Image, ImageDraw

import continual

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREENS = {"phone": (390, 844), "desk": (1280, 800)}
PARTS = {"bolt": (4, "slategray"), "ring": (40, "goldenrod"), "nut": (6, "sienna"), "pin": (3, "hotpink")}
KNOWN = ("bolt", "ring", "nut")
ASKED = ("bolt", "pin", "pin", "ring", "nut")
SHAPE: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 4}


def part(name: str, draw: np.random.Generator) -> Image.Image:
    """Draw a part that lies somewhere on a table, 256 x 256."""
    corners, colour = PARTS[name]
    image = Image.fromarray(draw.normal(205, 8, (256, 256, 3)).clip(0, 255).astype(np.uint8))
    x, y, radius, angle = draw.integers([96, 96, 52, 0], [160, 160, 80, 360]).tolist()
    ImageDraw.Draw(image).regular_polygon((x, y, radius), corners, angle, colour, "black")
    return image


def taught() -> Any:
    """Return a learner of some of the parts."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SHAPE)
    backbone = continual.assemble(vit, "vit_tiny_patch16_224", SHAPE)
    learner, draw = continual.StrataLearner(backbone), np.random.default_rng(0)
    learner.learn([part(name, draw) for name in KNOWN for _ in range(20)], [name for name in KNOWN for _ in range(20)])
    return learner


def asked(page: Any, folder: Path) -> None:
    """Use the page as a person does: give photos, ask why, name a part that the model does not know."""
    draw = np.random.default_rng(1)
    files = []
    for number, name in enumerate(ASKED):
        files.append(folder / f"{name}{number}.png")
        part(name, draw).save(files[-1])
    page.set_input_files("#file", [str(file) for file in files])
    page.wait_for_selector(f".answer >> nth={len(files) - 1}")
    page.click("text=Why? >> nth=0")
    page.wait_for_selector(".why canvas")
    page.click("article >> nth=2 >> text=Wrong, it is …")
    page.fill("form.name input", "pin")
    page.click("form.name button")
    page.wait_for_selector("#teach >> text=pin")


def main(report: Path, out: Path) -> None:
    """Write report_phone_light.png and so on, and the same of serve."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise typer.BadParameter(f"no browser: none of {', '.join(BROWSERS)} is installed")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            for screen, (width, height) in SCREENS.items():
                with TemporaryDirectory() as folder, served(taught(), Path(folder), false_alarm_rate=0.05) as address:
                    for name, place in (("report", report.resolve().as_uri()), ("serve", address)):
                        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                        page.goto(place)
                        if name == "serve":
                            asked(page, Path(folder))
                            page.evaluate("scrollTo(0, 0)")
                        page.screenshot(path=str(out / f"{name}_{screen}_{scheme}.png"))
                        page.close()
        browser.close()


if __name__ == "__main__":
    typer.run(main)
