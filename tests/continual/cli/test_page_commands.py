"""The commands of the README and of how-to pages run as they stand, on random weights; all pages' are parsed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import typer
from PIL import Image

from continual.cli.app import ParserError, app
from tests.conftest import ROOT, TINY_ARGS
from tests.continual.conftest import Equimos, write_pictures

ALL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: pages whose commands run, each in a folder of its own, in their order
RUN = ["README.md", "docs/own_folders.md", "docs/unknowns.md", "docs/explain.md", "docs/edge.md", "docs/serving.md"]
#: commands that begin so are not run, and why
LEFT_OUT = {
    "pip install": "a network; `run quickstart` behind it takes two minutes",
    "equimos serve": "a server: tests/continual/serving",
    "EQUIMOS_API_KEY": "a server: tests/continual/serving",
    "curl": "a server: tests/continual/serving",
    "OMP_NUM_THREADS=1 python benchmarks/page_loop.py": "100 classes of Tiny-ImageNet",
    "python benchmarks/unknowns.py": "a data set and its backbone's weights",
}
#: pages that show what to do with models that are there
WITH_MODELS = ("docs/unknowns.md", "docs/explain.md", "docs/edge.md")
#: classes that people add to `photos`, one before each later `equimos learn` on it
LATER = ("nut", "washer", "pin")


def commands(page: Path) -> Iterator[str]:
    """Yield the lines of a page's bash blocks, without comments, those that go on in one."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield re.sub(r"\s+#.*", "", line) if "#" in line else line


def parsed(command: Any, words: list[str], name: str) -> None:
    """Parse a command line and do not run it; raises what the parser raises."""
    if not hasattr(command, "commands"):
        command.make_context(name, words)
        return
    found, inner, rest = command.resolve_command(command.context_class(command, info_name=name), words)
    parsed(inner, rest, found)


def wrong_in(page: Path) -> list[str]:
    """Return what the parser says of a page's `equimos` commands."""
    whole, found = typer.main.get_command(app), []
    for line in commands(page):
        words = shlex.split(line)
        if "equimos" in words:
            try:
                parsed(whole, words[words.index("equimos") + 1 :], "equimos")
            except ParserError as error:
                found.append(f"{page.name}: {line}: {error.format_message()}")
    return found


def test_options_of_every_command_exist(tmp_path: Path) -> None:
    assert [said for page in ALL for said in wrong_in(page)] == []
    bad = tmp_path / "bad.md"
    bad.write_text("```bash\nequimos info --modle m.safetensors\nequimos data chekc d  # comment\n```\n")
    assert [line.split(": ")[1] for line in wrong_in(bad)] == [
        "equimos info --modle m.safetensors",
        "equimos data chekc d",
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images; the hub gives one small ViT, and whoever is asked says yes."""
    places = [
        ("photos", ["bolt", "ring"], 12),
        (".", ["new", "wrong", "nut", "known", "others"], 3),
        ("line3", ["good", "today", "more"], 24),
    ]
    for place, names, count in places:
        write_pictures(tmp_path / place, names, count)
    Image.open(tmp_path / "new" / "0.png").resize((64, 48)).save(tmp_path / "photo.jpg")
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tiny = {**TINY_ARGS, **options}  # of four by four patches, whatever the size of its input
            return create(name, pretrained=False, **{**tiny, "patch_size": tiny["img_size"] // 4})

    monkeypatch.setattr(timm, "create_model", offline)
    for asking in ("learn", "deploy", "opening"):
        monkeypatch.setattr(f"continual.cli.{asking}.can_ask", lambda: True)
        monkeypatch.setattr(f"continual.cli.{asking}.confirmed", lambda question: True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, equimos: Equimos) -> None:
    """Run one line of a page: `equimos` in this process, Python's scripts in another, as on a device."""
    name, *words = shlex.split(line)
    words = [str(found) for word in words for found in (sorted(Path().glob(word)) if "*" in word else [word])]
    if name == "cd":
        os.chdir(*words)
    elif name == "equimos":
        done = equimos(*words)
        assert done.exit_code == 0, (line, done.stdout, done.stderr)
    else:
        assert name == "python", f"{line}: neither run nor left out"
        script = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        assert script.returncode == 0, (line, script.stdout, script.stderr)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page == "docs/edge.md" else []) for page in RUN]
)
def test_commands_run(page: str, folder: Path, equimos: Equimos) -> None:
    learn = "equimos learn --images photos --model {} --backbone vit_base_patch16_224.augreg_in21k"
    if page in WITH_MODELS:
        run(f"{learn.format('mos.safetensors')} --method mos --set epochs=1 --set alignment_epochs=1", equimos)
        write_pictures(Path("photos"), ["nut"])
        run("equimos learn --images photos --model mos.safetensors", equimos)
        run(learn.format("parts.safetensors"), equimos)
    later = iter(LATER)
    for line in commands(ROOT / page):
        if line.startswith(tuple(LEFT_OUT)):
            continue
        if Path("parts.safetensors").exists() and line.startswith("equimos learn --images photos"):
            write_pictures(Path("photos"), [next(later)], 12)
        run(line, equimos)


def test_what_is_left_out_is_on_a_page() -> None:
    lines = [line for page in RUN for line in commands(ROOT / page)]
    assert [start for start in LEFT_OUT if not any(line.startswith(start) for line in lines)] == []
