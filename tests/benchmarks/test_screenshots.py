"""The script that photographs the pages: four pictures of each, of the screens' sizes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow


def test_pages_are_photographed_on_each_screen_light_and_dark(tmp_path: Path) -> None:
    import screenshots

    if not any(map(shutil.which, screenshots.BROWSERS)):
        pytest.skip(f"no browser: none of {', '.join(screenshots.BROWSERS)} is installed")
    report = tmp_path / "report.html"
    report.write_text("<!DOCTYPE html><meta name=color-scheme content='light dark'><p>a report")
    screenshots.main(report, tmp_path / "out")
    sizes = {}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            sizes[path.stem] = image.size
            corner = image.convert("L").getpixel((2, 2))
        assert (corner < 60) if path.stem.endswith("dark") else (corner > 230)
    assert sizes == {
        f"{page}_{screen}_{scheme}": size
        for page in ("report", "serve")
        for screen, size in screenshots.SCREENS.items()
        for scheme in ("light", "dark")
    }
