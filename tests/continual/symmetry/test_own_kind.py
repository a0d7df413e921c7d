"""A kind of symmetry from outside: a user's own file, used everywhere by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import continual
from continual.data.inputs import PreparedImages
from continual.errors import InputError
from continual.symmetry import KINDS
from equivariant.orbits import orbit

OWN = '''
from continual.symmetry.base import Symmetry


class FirstView(Symmetry):
    """The first view, in the order that content decides."""

    name, looked = "first_view", 1
'''


@pytest.mark.slow
def test_a_kind_in_a_users_own_file_runs_everywhere(
    equimos: Callable[..., Any], config: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with monkeypatch.context() as during:
        during.setattr(KINDS, "_added", {})
        assert KINDS.resolve(f"{tmp_path / 'own.py'}:FirstView") == "first_view"

        config.write_text(config.read_text() + 'group = "C4"\nsymmetry = "first_view"\n')
        assert equimos("run", config, "--out", tmp_path / "run").exit_code == 0
        assert equimos("report", tmp_path / "run", "--out", tmp_path / "report").exit_code == 0
        assert "simple_cil" in (tmp_path / "report" / "table.md").read_text()

        model = tmp_path / "model.safetensors"
        words = ["--images", tmp_path / "images", "--model", model, "--weights", weights, "--method", "simple_cil"]
        asked = ["--symmetry", "C4", "--set", "symmetry=first_view"]
        assert equimos("learn", "--yes", *words, *asked).exit_code == 0

        learner = continual.load(model)
        paths = sorted((tmp_path / "images").rglob("*.png"))
        prepared = PreparedImages(paths, [0] * len(paths), learner.backbone.preprocessing, augment=False)
        images = torch.stack([image for image, _ in prepared])
        scores = [learner.predict(view).scores for view in orbit("C4", images)]
        assert all(torch.equal(found, scores[0]) for found in scores)
        first = learner.symmetry.orbit(images)[:, 0]
        assert torch.equal(scores[0], learner.variant(group=None).predict(first).scores)

    with pytest.raises(InputError, match="unknown symmetry 'first_view'"):
        continual.load(model)
