"""The commands on images and models, as a user types them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import continual
from continual.learning import doubts
from continual.methods import RECOMMENDED, methods

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]

FAST = ("--method", "simple_cil")


def records(equimos: Equimos, *words: object) -> list[dict[str, Any]]:
    """Predict and return the JSON, which must be all there is on standard output."""
    result = equimos("predict", *words, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_learning_makes_a_model_that_the_library_loads(trained: Path, flowers: Path) -> None:
    learner = continual.load(trained)
    assert learner.method == "mos"
    assert learner.classes == ("rose", "tulip")
    assert learner.settings.epochs == 10
    assert learner.evaluate(flowers) == 1


def test_what_learns_unless_told_otherwise_says_what_is_unknown(
    equimos: Equimos, tmp_path: Path, flowers: Path, pictures: Pictures, weights: Path
) -> None:
    """The whole way on defaults: two experiences, probabilities, an answer that is none."""
    model = tmp_path / "model.safetensors"
    assert equimos("learn", "--yes", "-i", flowers, "-m", model, "--weights", weights).exit_code == 0
    assert equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model).exit_code == 0
    assert continual.load(model).method == RECOMMENDED
    result = equimos("predict", flowers, "-m", model, "--json", "-", "--false-alarm-rate", 0.05)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {row["stack"] for row in found} == {None}
    assert all(0 < row["probability"] <= 1 and row["unknown"] in (False, True) for row in found)
    header, *rows = equimos("predict", flowers, "-m", model).stdout.splitlines()
    assert header.split() == ["file", "answer", "score", "runner-up", "score", "probability"]
    assert f"{found[0]['probability']:.3f}" in rows[0]


def test_learning_again_adds_an_experience(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    more = pictures("more", ["iris", "rose"], 6)
    result = equimos("learn", "--yes", "--images", more, "--model", model, "--hold-out", 0)
    assert result.exit_code == 0, result.stderr
    assert "2 classes so far; 8 images to learn" in result.stderr
    assert "1 new class: iris (6)" in result.stderr
    assert "1 known class with new images: rose (2)" in result.stderr
    assert "learned before, left out: 4 images" in result.stderr
    assert "3 classes in 2 experiences" in result.stdout
    state = continual.load(model).state
    assert state.classes == ("rose", "tulip", "iris")
    assert state.class_experience == (0, 0, 1)


def test_only_known_classes_are_an_update(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    result = equimos("learn", "--yes", "--images", pictures("more", ["rose", "tulip"], 6), "--model", model)
    assert result.exit_code == 0, result.stderr
    assert "2 classes in 1 experience" in result.stdout
    assert continual.load(model).state.updates == 2


def test_options_that_agree_with_the_model_are_welcome(equimos: Equimos, model: Path, flowers: Path) -> None:
    words = (
        "--method",
        "mos",
        "--set",
        "epochs=10",
        "--model-arg",
        "img_size=16",
        "--backbone",
        "vit_tiny_patch16_224",
    )
    assert equimos("learn", "--yes", "-i", flowers, "-m", model, *words).exit_code == 0


def test_the_command_learns_what_the_library_learns(
    equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path
) -> None:
    model = tmp_path / "model.safetensors"
    words = [
        "--method",
        "mos_reference",
        "--set",
        "epochs=1",
        "--set",
        "merge=step",
        "--model-arg",
        "crop_pct=1.0",
        "--device",
        "cpu",
    ]
    result = equimos("learn", "--yes", "-i", flowers, "-m", model, "--weights", weights, "--device", "cpu", *words)
    assert result.exit_code == 0, result.stderr
    direct = continual.MOSLearner(
        continual.load_backbone(weights=weights, crop_pct=1.0), preset="reference", epochs=1, merge="step"
    )
    direct.learn(flowers)
    loaded = continual.load(model)
    assert loaded.settings == direct.settings
    assert loaded.backbone.preprocessing == direct.backbone.preprocessing
    for name, tensor in direct.export()[0].items():
        torch.testing.assert_close(loaded.export()[0][name], tensor, rtol=0, atol=0)


def test_predictions_are_the_librarys(equimos: Equimos, model: Path, flowers: Path) -> None:
    found = records(equimos, "--model", model, flowers)
    assert [Path(r["file"]) for r in found] == sorted(flowers.glob("*/*.png"))
    direct = continual.load(model).predict(flowers)
    assert [r["answer"] for r in found] == direct.labels == ["rose"] * 4 + ["tulip"] * 4
    torch.testing.assert_close(torch.tensor([r["score"] for r in found]), direct.scores.amax(-1))
    torch.testing.assert_close(torch.tensor([r["runner_up_score"] for r in found]), direct.scores.amin(-1))
    assert {r["runner_up"] for r in found if r["answer"] == "rose"} == {"tulip"}
    assert {(r["stack"], r["first_stack"], r["refinements"]) for r in found} == {(0, 0, 0)}


def test_predictions_as_table_and_csv(equimos: Equimos, model: Path, flowers: Path, tmp_path: Path) -> None:
    result = equimos("predict", "-m", model, flowers / "rose" / "0.png", flowers / "tulip", "--csv", tmp_path / "p.csv")
    assert result.exit_code == 0, result.stderr
    heading, *lines = result.stdout.splitlines()
    assert heading.split() == ["file", "answer", "score", "runner-up", "score", "adapter", "refinements", "probability"]
    assert [line.split()[1] for line in lines] == ["rose"] + ["tulip"] * 4
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [line.split()[0] for line in lines]
    assert [f"{float(row['score']):.3f}" for row in rows] == [line.split()[2] for line in lines]


def test_predictions_that_are_not_sure_are_marked(
    equimos: Equimos, model: Path, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "SURE", 1.1)
    heading, *lines = equimos("predict", "-m", model, flowers, "--false-alarm-rate", 1e-6).stdout.splitlines()
    assert heading.split()[-2:] == ["unknown", "unsure"]
    assert all(line.endswith("not sure") for line in lines)
    noise = tmp_path / "noise.png"
    Image.effect_noise((16, 16), 90).convert("RGB").save(noise)
    lines = equimos("predict", "-m", model, noise, flowers, "--false-alarm-rate", 0.3).stdout.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["unknown"] + ["sure"] * 8
    assert "not sure" not in lines[0], "what is unknown is said to be that alone"
    assert all(row["unsure"] for row in records(equimos, "--model", model, flowers))


def test_csv_on_standard_output_is_alone_there(equimos: Equimos, model: Path, flowers: Path, tmp_path: Path) -> None:
    result = equimos("predict", "-m", model, flowers, "--csv", "-", "--json", tmp_path / "p.json")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [row["file"] for row in rows] == [r["file"] for r in json.loads((tmp_path / "p.json").read_text())]


def test_one_class_and_no_stacks(equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path) -> None:
    one, model = pictures("one", ["rose"], 1), tmp_path / "m.safetensors"
    assert equimos("learn", "--yes", "-i", one, "-m", model, "--weights", weights, *FAST).exit_code == 0
    (only,) = records(equimos, "-m", model, one)
    assert (only["answer"], only["score"], only["runner_up"], only["stack"]) == ("rose", 1, None, None)
    heading, line = equimos("predict", "-m", model, one).stdout.splitlines()
    assert heading.split() == ["file", "answer", "score", "runner-up", "score"]
    assert line.split()[1:] == ["rose", "1.000", "–", "–"]


def test_names_are_shown_as_they_are(equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path) -> None:
    odd, model = pictures("odd", ["[red]é :cat:", "a b"]), tmp_path / "m.safetensors"
    assert "[red]é :cat: (4)" in equimos("learn", "--yes", "-i", odd, "-m", model, "--weights", weights, *FAST).stderr
    assert "[red]é :cat:/3.png" in equimos("predict", "-m", model, odd).stdout
    assert "[red]é :cat: (4)" in equimos("info", "-m", model).stdout


def test_hidden_and_stray_files_are_not_learned(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    folder, model = pictures("images", ["rose", ".cache", "rose/.thumbnails"], 2), tmp_path / "m.safetensors"
    (folder / "empty").mkdir()
    shutil.copy(folder / "rose" / "0.png", folder / "loose.png")
    result = equimos("learn", "--yes", "-i", folder, "-m", model, "--weights", weights, *FAST)
    assert "2 images to learn" in result.stderr
    assert "note: 1 image outside class folders" in result.stderr
    assert "note: no images in empty" in result.stderr
    assert [Path(r["file"]).name for r in records(equimos, "-m", model, folder)] == ["loose.png", "0.png", "1.png"]


def test_info_needs_no_backbone(equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path) -> None:
    moved, model = Path(shutil.copy(weights, tmp_path / "w.safetensors")), tmp_path / "m.safetensors"
    first, second = pictures("first", ["rose"], 2), pictures("second", ["iris", "rose"], 3)
    assert equimos("learn", "--yes", "-i", first, "-m", model, "--weights", moved, *FAST).exit_code == 0
    assert equimos("learn", "--yes", "-i", second, "-m", model).exit_code == 0
    sha256 = continual.load(model).backbone.sha256
    moved.unlink()
    about = json.loads(equimos("info", "-m", model, "--json", "-").stdout)
    assert about["method"] == "simple_cil"
    assert about["classes"] == [
        {"name": "rose", "experience": 0, "images": 3},
        {"name": "iris", "experience": 1, "images": 3},
    ]
    assert (about["experiences"], about["updates"]) == (2, 2)
    assert about["backbone"]["sha256"] == sha256
    assert about["backbone"]["preprocessing"]["size"] == [16, 16]
    assert about["memory_bytes"] == {
        "prototypes": 2 * 32 * 4 + 2 * 8,
        "temperature": 1304,
        "images seen (digests)": 6 * 21,
    }
    assert about["versions"]["torch"] == metadata.version("torch")
    text = equimos("info", "-m", model).stdout
    assert [line.split()[2:] for line in text.splitlines() if line.startswith("  experience")] == [
        ["rose", "(3)"],
        ["iris", "(3)"],
    ]
    for shown in (sha256, "2 classes in 2 experiences", "size=[16, 16]", "prototypes 0.3 KiB"):
        assert shown in text


def test_info_without_counts_and_with_a_table(equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path) -> None:
    model, target = tmp_path / "m.safetensors", tmp_path / "about.json"
    words = ("--method", "finetune", "--set", "epochs=0")
    assert equimos("learn", "--yes", "-i", flowers, "-m", model, "--weights", weights, *words).exit_code == 0
    assert "rose, tulip" in equimos("info", "-m", model, "--json", target).stdout
    assert [c["images"] for c in json.loads(target.read_text())["classes"]] == [None, None]


def test_embedded_backbone_stays_embedded(
    equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path, pictures: Pictures
) -> None:
    moved, model = Path(shutil.copy(weights, tmp_path / "w.safetensors")), tmp_path / "m.safetensors"
    result = equimos("learn", "--yes", "-i", flowers, "-m", model, "--weights", moved, "--embed-backbone", *FAST)
    assert result.exit_code == 0, result.stderr
    moved.unlink()
    assert equimos("learn", "--yes", "-i", pictures("more", ["rose"], 5), "-m", model).exit_code == 0
    assert {r["answer"] for r in records(equimos, "-m", model, flowers / "rose")} == {"rose"}
    assert "backbone (frozen)" in json.loads(equimos("info", "-m", model, "--json", "-").stdout)["memory_bytes"]
    assert len(records(equimos, "-m", model, flowers, "--weights", weights)) == 8


def test_weights_may_move(equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path, pictures: Pictures) -> None:
    before, model = Path(shutil.copy(weights, tmp_path / "before.safetensors")), tmp_path / "m.safetensors"
    assert equimos("learn", "--yes", "-i", flowers, "-m", model, "--weights", before, *FAST).exit_code == 0
    now = before.rename(tmp_path / "now.safetensors")
    refused = equimos("predict", "-m", model, flowers)
    assert refused.exit_code == 2
    assert str(before) in refused.stderr
    assert "--weights" in refused.stderr
    assert equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model, "--weights", now).exit_code == 0
    assert len(records(equimos, "-m", model, flowers)) == 8


def test_methods_and_their_settings(equimos: Equimos) -> None:
    short, long = equimos("methods").stdout, equimos("methods", "--verbose").stdout
    for name, kind in methods().items():
        (line,) = [line for line in short.splitlines() if line.startswith(f"{name} ")]
        assert kind.paper in line
        assert kind.summary in line
        ends = "yes" if kind.exemplar_free else "no", "any" if kind.any_backbone else "ViT"
        assert tuple(line.split()[-2:]) == ends
        assert all(setting in long for setting in kind.settings_type.model_fields)
    assert "'inductor' | 'aot_eager' | 'eager' | None" in long
    assert "--method mos_reference, or --method mos --preset reference: merge=per_forward" in long
    assert "alignment_epochs" not in short


def test_version_and_help(equimos: Equimos) -> None:
    assert equimos("--version").stdout == f"equimos {continual.__version__}\n"
    assert equimos().exit_code == 0
    for word in ("learn", "predict", "info", "methods", "run", "show"):
        assert word in equimos().stdout
        assert equimos(word, "--help").exit_code == 0


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_device(equimos: Equimos, model: Path, flowers: Path, name: str) -> None:
    assert len(records(equimos, "-m", model, flowers, "--device", name)) == 8


def test_unknown_rows_are_marked(equimos: Equimos, model: Path, flowers: Path, tmp_path: Path) -> None:
    asked = records(equimos, "--model", model, flowers, "--unknown-rate", "0.3")
    direct = continual.load(model).predict(flowers, false_alarm_rate=0.3)
    assert [r["unknown"] for r in asked] == direct.unknown.tolist()
    assert [r["familiarity"] for r in asked] == direct.p_value.tolist()
    assert [r["probability"] for r in asked] == direct.probabilities.amax(-1).tolist()
    assert {r["unknown"] for r in records(equimos, "--model", model, flowers)} == {None}
    noise = tmp_path / "noise.png"
    Image.effect_noise((16, 16), 90).convert("RGB").save(noise)
    result = equimos("predict", "-m", model, noise, "--unknown-rate", "0.3", "--csv", tmp_path / "p.csv")
    heading, line = result.stdout.splitlines()
    assert heading.split()[-2:] == ["probability", "unknown"]
    (row,) = csv.DictReader((tmp_path / "p.csv").read_text().splitlines())
    assert line.split()[-1] == "unknown" if row["unknown"] == "True" else line.split()[-1] != "unknown"
    assert row["unknown"] == "True"
    assert equimos("predict", "-m", model, flowers, "--unknown-rate", "2").exit_code == 2
