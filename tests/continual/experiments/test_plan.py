"""`--dry-run`: what a run would do, and every config of the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.datasets.collection import Images
from continual.experiments import dry_run
from continual.experiments.config import load_runs
from continual.testing import tiny_backbone

Equimos = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]
#: those of published settings (test_published_configs) and of symmetries (test_equivariance_tune) have their own tests
PLACES = ("*.toml", "tiny_imagenet_100/*.toml", "rotated_*/*.toml")
CONFIGS = sorted(path for place in PLACES for path in ROOT.glob(f"configs/{place}") if path.stem != "published")


def test_a_plan_says_what_would_be_done_and_writes_nothing(equimos: Equimos, config: Path) -> None:
    before = sorted(config.parent.rglob("*"))
    result = equimos("run", config, "--dry-run", "seeds=[1, 2]", "--out", config.parent / "out")
    assert result.exit_code == 0, result.stderr
    shape, backbone, cells, work = result.stdout.splitlines()
    assert shape == "Tiny: 2 experiences (2 of 1 class), 8 training and 8 test images"
    assert backbone.startswith("backbone vit_tiny_patch16_224, weights in ")
    assert cells.startswith("1 method x 2 seeds on cpu, 0 of 2 cells finished")
    assert work == "simple_cil: nothing trained, 12 images answered"
    assert sorted(config.parent.rglob("*")) == before
    equimos("run", config, "seeds=[1, 2]", "--out", config.parent / "out")
    again = equimos("run", config, "--dry-run", "seeds=[1, 2]", "--out", config.parent / "out")
    assert "2 of 2 cells finished" in again.stdout


def test_a_method_that_keeps_images_learns_them_again(equimos: Equimos, config: Path) -> None:
    words = ("methods.joint.epochs=3", "methods.finetune.epochs=3")
    result = equimos("run", config, "--dry-run", *words, "--out", config.parent / "out")
    assert result.exit_code == 0, result.stderr
    assert "joint: at most 36 images trained on (3 epochs)" in result.stdout
    assert "finetune: at most 24 images trained on (3 epochs)" in result.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_config_passes_a_dry_run(
    equimos: Equimos, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On made-up images of as many classes, as tests have no network; weights of files are a tiny model's."""
    words = []
    if "digits" not in path.read_text():
        named = [name for made in load_runs(path).values() for name in made.stream.only or ()]
        names = list(dict.fromkeys([*named, *[f"class{n:03}" for n in range(100)]]))[:100]
        monkeypatch.setattr(
            "continual.datasets.streams.load_data", lambda _: (Images(names, names), Images(names, names))
        )
    if "weights =" in path.read_text():
        (tmp_path / "weights").write_bytes(b"1234")
        words = [f"backbone.weights={tmp_path / 'weights'}"]
        monkeypatch.setattr(dry_run, "load_backbone", lambda *_, **__: tiny_backbone())
    result = equimos("run", path, "--dry-run", "--out", tmp_path / "out", "device=cpu", *words)
    assert result.exit_code == 0, result.stderr
    assert "images answered" in result.stdout
    assert not (tmp_path / "out").exists()
    header = path.read_text().split("title =")[0]
    assert f"equimos run configs/{path.relative_to(ROOT / 'configs')}" in header, "the header lacks its command"


def test_out_of_memory_is_one_line(equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("continual.experiments.run.run_cell", full)
    result = equimos("run", config, "--out", config.parent / "out")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: out of memory: a smaller batch_size")
