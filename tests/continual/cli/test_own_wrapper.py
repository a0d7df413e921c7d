"""A wrapper of one's own: one class, found by its name in every command, at an entry point or registered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn

import equivariant.wrappers as registry
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.wrappers.base import Network, WeightedWrapper
from tests.support.refusals import refused
from tests.support.small_studies import write_folders, write_study

Equimos = Callable[..., Any]
Start = Annotated[float, "at first"]


class Sharp(WeightedWrapper):
    """Each view counts by a softmax of its largest score, as sharply as was learned."""

    name = "sharp"
    through_model = True

    def __init__(self, model: nn.Module, group: FiniteGroup | str, *, start: float = 1.0, **options: Any) -> None:
        super().__init__(model, group, **options)
        self.sharpness = nn.Parameter(torch.tensor(start))

    @classmethod
    def around(cls, network: Network, group: FiniteGroup, chunk: int | None = None, *, start: Start = 1.0) -> nn.Module:
        return cls(network.whole, group, start=start, chunk=chunk)

    def answer(self, x: Tensor) -> tuple[Any, Tensor]:
        views = self.views(x)
        weights = (self.sharpness * views.tensors[0].amax(-1)).softmax(0)
        return views.combine(weights), weights

    def weight_parameters(self) -> list[nn.Parameter]:
        return [self.sharpness]


@pytest.fixture(params=["registered", "entry point"])
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    if request.param == "registered":
        registry.register(Sharp)
    else:
        entry = EntryPoint("sharp", f"{__name__}:Sharp", "equimos.wrappers")
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == entry.group else [])
        registry._found.cache_clear()
    yield
    registry._found.cache_clear()


@pytest.mark.usefixtures("own")
def test_an_own_wrapper_in_every_command(equimos: Equimos, weights: Path, tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    assert "start=1.0: at first" in equimos("equivariance", "wrappers").stdout
    done = equimos("equivariance", "check", weights, "--wrapper", "sharp,start=3.0", "--group", "D4")
    assert done.exit_code == 0, done.output
    refused(equimos("equivariance", "check", weights, "--wrapper", "sharp,stat=3.0"), "did you mean 'start'")
    refused(equimos("equivariance", "check", weights, "--wrapper", "max,start=3.0"), "start is an option of 'sharp'")
    words = ("--images", folders / "test", "--fit", folders / "train", "--wrapper", "sharp", "--json", "-")
    (row,) = json.loads(equimos("equivariance", "evaluate", weights, *words).stdout)["rows"]
    assert (row["wrapper"], row["measures"]["consistency"]) == ("sharp", 1)
    assert sum(row["measures"]["weights"].values()) == pytest.approx(1)

    study, out = write_study(tmp_path / "tiny.toml", folders, weights), tmp_path / "out"
    tuned = equimos("equivariance", "tune", study, "rows={sharp = {start = 2.0, recipe = 'quick'}}", "--out", out)
    assert tuned.exit_code == 0, tuned.output
    assert json.loads((out / "study.json").read_text())["config"]["rows"]["sharp"]["start"] == 2.0
    checked = equimos("equivariance", "check", out / "models" / "sharp-0" / "model.safetensors")
    assert checked.exit_code == 0, checked.output


def test_a_wrapper_needs_a_name_of_its_own() -> None:
    class Nameless(Sharp):
        pass

    class Taken(Sharp):
        name = "equitune"

    for wrong in (Nameless, Taken):
        with pytest.raises(InputError, match="needs a `name` of its own"):
            registry.register(wrong)
    with pytest.raises(InputError, match="unknown wrapper 'equitun': choose 'equitune'"):
        registry.wrapper_named("equitun")
    assert "sharp" not in registry.wrappers()
