"""A whole run, small: folder in, cells, table and picture out; interrupted and gone on with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual.errors import InputError
from continual.experiments.config import RunConfig
from continual.experiments.results import rows
from continual.experiments.run import run_config
from continual.experiments.tables import results_table
from continual.learning.feature_store import FeatureStore
from continual.metrics.accuracy import accuracy, average
from continual.metrics.cost import memory, waiting
from continual.metrics.retrieval import right_stack

REST = """
[settings]
epochs = 1
batch_size = 8
[methods.mos]
[methods.mos.variants]
alone = { ensemble = false }
[methods.simple_cil]
"""


@pytest.fixture
def config(blob_run: Callable[..., RunConfig]) -> RunConfig:
    return blob_run(REST, classes=4, seeds=[1, 2])


def measured(cells: Any) -> list[Any]:
    """Everything but the clock's figures."""
    return [(c.label, c.seed, c.settings, accuracy(c), right_stack(c), memory(c)) for c in cells]


def test_a_run_writes_table_picture_and_cells(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cells = run_config(config, out)
    assert [(c.label, c.seed) for c in cells] == [
        (label, seed) for seed in (1, 2) for label in ("mos", "mos, alone", "simple_cil")
    ]
    assert all(len(row) == number + 1 for c in cells for number, row in enumerate(accuracy(c)))
    for cell in cells:
        assert [share is not None and 0 < share < 1 for share in waiting(cell)] == 2 * [cell.method == "mos"]
    assert {p.name for p in out.iterdir()} == {
        "run.json", "cells", "records", "results.json", "results.csv", "results.md", "accuracy.png",
    }  # fmt: skip
    with Image.open(out / "accuracy.png") as picture:
        assert min(picture.size) > 300
    text = (out / "results.md").read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if "±" in line] == [
        "mos",
        "mos, alone",
        "simple_cil",
    ]
    assert json.loads((out / "run.json").read_text())["config"]["seeds"] == [1, 2]


def test_an_interrupted_run_goes_on_and_ends_the_same(config: RunConfig, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if stage.startswith("simple_cil, seed 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_config(config, tmp_path / "out", stop)
    assert [p.name for p in (tmp_path / "out" / "cells").iterdir()] == ["mos-1.json"]
    before = (tmp_path / "out" / "cells" / "mos-1.json").read_bytes()
    resumed = run_config(config, tmp_path / "out")
    assert (tmp_path / "out" / "cells" / "mos-1.json").read_bytes() == before
    assert measured(resumed) == measured(run_config(config, None))


def test_only_some_methods_now(config: RunConfig, tmp_path: Path) -> None:
    cells = run_config(config, tmp_path / "out", only=["simple_cil"])
    assert {c.label for c in cells} == {"simple_cil"}
    with pytest.raises(InputError, match="did you mean 'simple_cil'"):
        run_config(config, tmp_path / "out", only=["simplecil"])


def test_a_folder_of_another_run_is_refused(config: RunConfig, tmp_path: Path) -> None:
    run_config(config, tmp_path / "out", only=["simple_cil"])
    other = config.model_copy(update={"seeds": [3]})
    with pytest.raises(InputError, match=r"other settings: seeds is \[1, 2\] there, \[3\] now"):
        run_config(other, tmp_path / "out")
    other = config.model_copy(update={"title": "Other", "stream": config.stream.model_copy(update={"per_class": 3})})
    with pytest.raises(InputError, match=r"title is Small there, Other now; stream.per_class is None there, 3 now"):
        run_config(other, tmp_path / "out")
    with pytest.raises(InputError, match="not empty"):
        run_config(config, tmp_path / "train")


def test_rows_are_means_and_deviations_over_seeds(config: RunConfig) -> None:
    cells = run_config(config, only=["simple_cil"])
    (row,) = rows(cells)
    averages = [average.figure(c) for c in cells]
    assert row.mean["average"] == pytest.approx(np.mean(averages))
    assert row.deviation["average"] == pytest.approx(np.std(averages, ddof=1))
    table = results_table(cells)
    assert "adapter-retrieval accuracy [%]" not in table.headings
    assert table.lines[0][0] == "simple_cil"


def test_data_that_are_not_there_or_do_not_match(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "test" / "class3").rename(tmp_path / "test" / "other")
    with pytest.raises(InputError, match=r"'class3' \(training only\), 'other' \(test only\)"):
        run_config(config)
    (tmp_path / "test" / "other").rename(tmp_path / "test" / "class3")
    (tmp_path / "train" / "class0" / "0.png").write_text("not an image")
    with pytest.raises(InputError, match=r"0\.png"):
        run_config(config)


def test_a_variant_in_another_precision_has_features_of_its_own(
    blob_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    text = '[methods.simple_cil]\n[methods.simple_cil.variants]\nhalf = { precision = "bfloat16" }\n'
    cells = run_config(blob_run(text, classes=4), tmp_path / "out")
    whole, half = (cell.evaluations[-1].confidence for cell in cells)
    assert whole != half


def test_a_run_with_features_of_another_is_the_same(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what it would have taken: what a store saves is added to the times."""
    plain = run_config(config, only=["simple_cil"])
    run_config(config, only=["simple_cil"], store=FeatureStore(tmp_path))
    again = FeatureStore(tmp_path)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    found = run_config(config, only=["simple_cil"], store=again)
    assert measured(found) == measured(plain)
    assert again.saved > 0
    spent = [e.learning_seconds + e.evaluation_seconds for cell in found for e in cell.evaluations]
    assert sum(spent) == pytest.approx(again.saved)
