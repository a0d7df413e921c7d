"""The Python blocks of the README and of the pages run as they stand, on random weights; their commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm

from continual.experiments.config import load_runs
from continual.experiments.equivariance.config import load_study
from tests.conftest import ROOT, TINY_ARGS

README = (ROOT / "README.md").read_text(encoding="utf-8")
#: the pages whose blocks have no test of their own
PAGES = [README, *(p.read_text("utf-8") for p in sorted((ROOT / "docs").glob("*.md")) if p.stem != "write_a_method")]
BENCHMARKS = sorted(p for p in ROOT.glob("configs/**/*.toml") if p.parent.name != "equivariance")
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blobs: Any) -> Path:
    """A working folder with the README's photos, where the hub gives small ViTs and random weights."""
    from PIL import Image

    places = {"photos/january/bolt": 3, "photos/january/ring": 3, "photos/february/nut": 2, "new": 2}
    for place, count in places.items():
        (tmp_path / place).mkdir(parents=True)
        for number, image in enumerate(blobs([len(place)], count)[0]):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / place / f"{number}.png")
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        tiny = TINY_ARGS if name.startswith("vit") else {}
        return create(name, pretrained=False, **{**tiny, **options})

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=[block.strip().splitlines()[-1] for block in BLOCKS])
@pytest.mark.filterwarnings("ignore")  # Avalanche's own, on current numpy and torch
def test_python_blocks_run(block: str, folder: Path) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_the_commands_name_configs_that_load() -> None:
    text = "\n".join(PAGES)
    names = set(re.findall(r"equimos run ([a-z0-9_/]+)(?![\w./])", text))
    assert "quickstart" in names
    configs = {*re.findall(r"equimos run (configs/\S+\.toml)", text), *(f"configs/{name}.toml" for name in names)}
    for config in configs:
        load_runs(ROOT / config)
    studies = set(re.findall(r"equimos equivariance tune (configs/\S+\.toml)", text))
    assert "configs/equivariance/quickstart.toml" in studies
    for config in studies:
        load_study(ROOT / config)


def test_the_test_command_is_the_one_ci_runs() -> None:
    pattern = re.search(r"grep -m1 -E '([^']+)'", (ROOT / ".ci" / "run").read_text())
    assert pattern
    assert re.search(pattern[1], README, flags=re.MULTILINE)


@pytest.mark.parametrize("config", BENCHMARKS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_loads_and_carries_its_command(config: Path) -> None:
    load_runs(config)
    text = config.read_text()
    assert f"equimos run {config.relative_to(ROOT)}" in text
    assert tomllib.loads(text)["title"]
