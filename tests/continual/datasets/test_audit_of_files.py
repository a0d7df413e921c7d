"""What `data check` says of transparent images and of pictures that are not read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from continual.datasets.audit import audit
from continual.datasets.readers.base import DataTable
from continual.datasets.readers.class_folders import Flat


def test_transparent_and_unread_pictures_are_remarked_on(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(4):
            colour = (9, number, len(kind), 255 if kind == "cat" else 100)
            Image.new("RGBA", (9, 9 + number + 5 * (kind == "cat")), colour).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "dog" / "x.jxl").write_bytes(b"\xff\x0a")
    report = audit(Flat().read(DataTable(source=str(tmp_path))))
    assert report.errors == []
    assert "4 images of 8 transparent in part, which is seen as white" in report.remarks
    assert any("1 JPEG XL" in remark for remark in report.remarks)
