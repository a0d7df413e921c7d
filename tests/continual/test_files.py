"""Files written whole or not at all; safetensors headers read without torch, and refused where they are unsound."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from continual import files
from continual.errors import InputError
from tests.conftest import ROOT

TENSORS = {
    "a": torch.arange(6, dtype=torch.int64).reshape(2, 3) - 3,
    "b": torch.tensor([True, False, True]),
    "c": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "d": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    files.store(tmp_path / "x.safetensors", TENSORS, {"ä": "ö", "empty": ""})
    return tmp_path / "x.safetensors"


def test_a_header_is_what_the_library_reads(path: Path) -> None:
    header = files.read_header(path, ["a", "b", "gone"])
    assert header.metadata == {"ä": "ö", "empty": ""}
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {k: v.shape for k, v in TENSORS.items()}
    assert {name: tensor.nbytes for name, tensor in header.tensors.items()} == {k: v.nbytes for k, v in TENSORS.items()}
    assert header.integers == {"a": [-3, -2, -1, 0, 1, 2], "b": [True, False, True]}
    with pytest.raises(ValueError, match="'c' holds BF16"):
        files.read_header(path, ["c"])


def test_other_metadata_leave_the_tensors_bytes(path: Path) -> None:
    other = path.with_name("y.safetensors")
    files.with_header(path, other, {"name": "é" * 1001})
    tensors, metadata = files.fetch(other)
    assert metadata == {"name": "é" * 1001}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    a, b = files.read_header(path), files.read_header(other)
    assert path.read_bytes()[a.length :] == other.read_bytes()[b.length :]
    assert b.length % 8 == 0
    files.with_header(other, other, {})
    assert files.read_header(other).metadata == {}


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **changes}


UNSOUND: list[Any] = [
    [],
    {"__metadata__": {"n": 1}},
    {"__metadata__": {"n": "\ud800"}},
    {"__metadata__": ["n"]},
    {"x": 1},
    {"x": {}},
    {"x": entry(dtype="Z8")},
    {"x": entry(dtype=8)},
    {"x": entry(shape=[2, 3])},
    {"x": entry(shape=[-4])},
    {"x": entry(shape=[4.0])},
    {"x": entry(shape=4)},
    {"x": entry(data_offsets=[0, 8])},
    {"x": entry(data_offsets=[1, 5])},
    {"x": entry(data_offsets=[0])},
    {"x": entry(shape=[2], data_offsets=[0, 2])},
    {"x": entry(), "y": entry()},
]


@pytest.mark.parametrize("header", UNSOUND, ids=str)
def test_unsound_headers_are_refused_as_the_library_does(header: Any, tmp_path: Path) -> None:
    path, text = tmp_path / "x", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(ValueError, match="header|tensors"):
        files.read_header(path)
    with pytest.raises(safetensors.SafetensorError):
        safe_open(path, framework="pt").__enter__()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        bytes(8),
        struct.pack("<Q", 3) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 4) + b'{"\xff',
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
    ids=lambda content: str(content[:12]),
)
def test_files_of_other_kinds_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError):
        files.read_header(tmp_path / "x")


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", files.LONGEST + 1))
        os.truncate(file.fileno(), files.LONGEST + 100)
    with pytest.raises(ValueError, match="no safetensors header"):
        files.read_header(tmp_path / "x")


def test_every_cut_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            files.read_header(path)
    path.write_bytes(whole + b" ")
    with pytest.raises(ValueError, match="longer than its header says"):
        files.read_header(path)


def test_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"é": [1]})
    before = path.read_bytes()
    assert before == b'{\n "\\u00e9": [\n  1\n ]\n}\n'
    with pytest.raises(InputError, match="cannot write .*No such file"):
        files.write_text(tmp_path / "gone" / "x", "text")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="cannot write .*No space left"):
        files.write_text(path, "other")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path, umask: int) -> None:
    old, places = os.umask(umask), [tmp_path / "x", tmp_path / "y"]
    try:
        for mode in (None, 0o600, 0o640, 0o666):
            if mode is not None:
                for place in places:
                    place.chmod(mode)
            files.write_text(places[0], "x")
            files.store(places[1], TENSORS, {})
            assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {mode or 0o666 & ~umask}
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_device_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="a folder or a device"):
        files.write_text(pipe, "text")
    (tmp_path / "stdout").symlink_to(pipe)
    with pytest.raises(InputError, match="a folder or a device"):
        files.write_text(tmp_path / "stdout", "text")
    assert (tmp_path / "stdout").is_symlink()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    for path in (pipe, tmp_path):
        for read in (files.fetch, files.read_header):
            with pytest.raises((ValueError, OSError), match="device|directory"):
                read(path)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to("victim")
    files.write_text(tmp_path / "link", "text")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "link").read_text() == "text"


def test_every_type_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    numbers = torch.arange(24, dtype=torch.uint8)
    kinds = [
        *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64),
    ]
    tensors = {str(kind): numbers.to(kind).reshape(2, 3, 4) for kind in kinds}
    files.store(tmp_path / "x", tensors, {"a": "b"})
    found, metadata = files.fetch(tmp_path / "x")
    expected = safetensors.torch.load_file(tmp_path / "x")
    assert metadata == {"a": "b"}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))


#: reads a file again and again while it is copied over; prints how often it was read
READER = """
import sys
from continual import files
read = 0
while read < 30:
    try:
        tensors, _ = files.fetch(sys.argv[1])
    except (ValueError, OSError):
        continue
    assert len({int(tensor.sum()) for tensor in tensors.values()}) == 1, "a mixture of two files"
    read += 1
print(read)
"""


def test_a_file_that_is_copied_over_while_it_is_read(tmp_path: Path) -> None:
    """No rename: it is cut short, and grows again. It is read as one of the two, or refused, and nothing crashes."""
    for number in (0, 1):
        tensors = {str(n): torch.full((2**17,), number, dtype=torch.int64) for n in range(8)}
        files.store(tmp_path / f"{number}", tensors, {})
    live = Path(shutil.copy(tmp_path / "0", tmp_path / "live"))
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(live)], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    number = 0
    while reader.poll() is None:
        number += 1
        shutil.copyfile(tmp_path / f"{number % 2}", live)
        time.sleep(0.03)
    assert reader.stdout is not None
    assert (reader.returncode, reader.stdout.read()) == (0, b"30\n")
    reader.stdout.close()
    assert number > 20


def test_a_file_that_never_stands_still_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(file: Any, size: int) -> None:
        path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(ValueError, match="being written"):
        files.standing_still(path, parse)
