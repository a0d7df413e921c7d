"""Image files that were readable are not opened again; those that changed are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from continual.data import checked_files, images
from continual.data.checked_files import CheckedFiles, remembered
from continual.data.images import check_readable
from continual.errors import InputError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Note which files are opened; files count as settled at once."""
    found: list[Path] = []
    real = images.open_image
    monkeypatch.setattr(images, "open_image", lambda path, **options: (found.append(path), real(path, **options))[1])
    monkeypatch.setattr(checked_files, "SETTLED", -(10**9))
    return found


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (name == "a" and "red") or "blue").save(tmp_path / name / "1.png")
    return [tmp_path / name / "1.png" for name in ("a", "b")]


def test_files_are_opened_once_by_all_processes_that_share_a_folder(
    opened: list[Path], photos: list[Path], tmp_path: Path
) -> None:
    for _ in range(2):
        with remembered(tmp_path / "cache"):
            check_readable(photos)
    assert opened == photos
    check_readable(photos)  # outside of a block nothing is passed over
    assert opened == photos * 2


def test_a_file_that_changed_is_opened_again_though_size_and_time_are_as_before(
    opened: list[Path], photos: list[Path], tmp_path: Path
) -> None:
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    about = photos[0].stat()
    photos[0].write_bytes(b"x" * about.st_size)
    os.utime(photos[0], ns=(about.st_atime_ns, about.st_mtime_ns))
    with remembered(tmp_path / "cache"), pytest.raises(InputError, match=r"1 of 2 images cannot be read:\n.*a/1\.png"):
        check_readable(photos)
    assert opened == [*photos, photos[0]]


def test_a_file_in_the_place_of_another_is_opened(opened: list[Path], photos: list[Path], tmp_path: Path) -> None:
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    other = tmp_path / "other.png"
    other.write_bytes(photos[0].read_bytes())
    about = photos[0].stat()
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(photos[0])
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    assert opened == [*photos, photos[0]]


def test_a_file_that_cannot_be_read_is_named_every_time(opened: list[Path], photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_bytes(b"no image")
    for _ in range(2):
        with remembered(tmp_path / "cache"), pytest.raises(InputError, match="1 of 2 images cannot be read"):
            check_readable(photos)
    assert opened == [*photos, photos[1]]


def test_what_was_readable_for_three_channels_is_opened_for_five(
    opened: list[Path], photos: list[Path], tmp_path: Path
) -> None:
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    with remembered(tmp_path / "cache"), pytest.raises(InputError, match="2 of 2"):
        check_readable(photos, channels=5)


def test_a_file_changed_a_moment_ago_is_not_remembered(
    opened: list[Path], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "SETTLED", 3600 * 10**9)
    for _ in range(2):
        with remembered(tmp_path / "cache"):
            check_readable(photos)
    assert opened == photos * 2


@pytest.mark.parametrize("content", [b"", b"x" * 15, b"x" * 40])
def test_a_damaged_memory_says_nothing(opened: list[Path], photos: list[Path], tmp_path: Path, content: bytes) -> None:
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(content)
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    assert opened == photos * 2


def test_a_folder_that_cannot_be_written_remembers_nothing(
    opened: list[Path], photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    for _ in range(2):
        with remembered(tmp_path / "cache"):
            check_readable(photos)
    assert opened == photos * 2


def test_it_stays_bounded_and_can_be_cleared(
    opened: list[Path], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "MOST_FOLDERS", 1)
    with remembered(tmp_path / "cache"):
        check_readable(photos)
    assert len([*(tmp_path / "cache").iterdir()]) == 1
    assert CheckedFiles(tmp_path / "cache").clear() == 16
    assert not (tmp_path / "cache").exists()
