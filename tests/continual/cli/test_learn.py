"""`equimos learn` as a conversation: the plan, the questions, what broke, and what is kept."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import continual
from continual import console, files
from continual.backbones.loading import load_backbone
from continual.cli import learn
from continual.lifecycle import contents, versions
from continual.lifecycle.review import Review
from continual.methods import RECOMMENDED, methods
from continual.methods.mos.learner import MOSLearner
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]

QUICK = ("--method", "simple_cil")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the user at the terminal will say; every question takes one away."""
    said: list[bool] = []
    monkeypatch.setattr(learn, "can_ask", lambda: True)
    monkeypatch.setattr(learn, "confirmed", lambda _: said.pop(0))
    return said


def test_without_a_terminal_one_has_to_say_yes(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    before = model.read_bytes()
    refused(equimos("learn", "-i", pictures("more", ["iris"]), "-m", model), "no terminal", "--yes", "--dry-run")
    assert model.read_bytes() == before


def test_a_question_is_answered_yes_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, meant in (("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert console.confirmed("Really?") is meant
    assert not console.can_ask()


def test_a_dry_run_shows_the_plan_and_changes_nothing(
    equimos: Equimos, model: Path, pictures: Pictures, tmp_path: Path, weights: Path
) -> None:
    before, more = model.read_bytes(), pictures("more", ["iris"], 5)
    result = equimos("learn", "--dry-run", "-i", more, "-m", model)
    assert result.exit_code == 0, result.stderr
    for said in ("2 classes so far; 4 images to learn", "1 new class: iris (4)", "held out to evaluate on: 1 new"):
        assert said in result.stdout
    assert "time: under 10 s" in result.stdout
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]
    new = tmp_path / "new.safetensors"
    assert equimos("learn", "--dry-run", "-i", more, "-m", new, "--weights", weights).exit_code == 0
    assert not new.exists()


def test_questions_and_their_answers(
    equimos: Equimos, model: Path, pictures: Pictures, answers: list[bool], tmp_path: Path, weights: Path
) -> None:
    before, words = model.read_bytes(), ("learn", "-i", pictures("more", ["iris"]), "-m")
    answers += [False]
    result = equimos(*words, model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == f"nothing learned; {model} is as it was"
    answers += [True, False]
    result = equimos(*words, model)
    assert (result.exit_code, answers) == (1, [])
    assert result.stderr.splitlines()[-1] == f"not kept; {model} is as it was"
    assert model.read_bytes() == before
    answers += [True, True]
    assert equimos(*words, model).exit_code == 0
    assert continual.load(model).classes == ("rose", "tulip", "iris")
    answers += [True]  # a new model breaks nothing: one question
    assert equimos(*words, tmp_path / "new.safetensors", "--weights", weights, *QUICK).exit_code == 0
    assert answers == []


def test_nothing_new(equimos: Equimos, model: Path, flowers: Path) -> None:
    before = model.read_bytes()
    result = equimos("learn", "--yes", "-i", flowers, "-m", model)
    assert (result.exit_code, result.stdout) == (0, f"{model}: nothing new in {flowers}\n")
    assert model.read_bytes() == before


def test_problems_stop_it(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    before = model.read_bytes()
    for words in (("--yes",), ("--dry-run",)):
        result = equimos("learn", *words, "-i", pictures(words[0], ["Rose", "iris"]), "-m", model)
        assert result.exit_code == 2
        assert "'rose' and 'Rose' are one name for people" in result.stderr.splitlines()[-1]
    assert model.read_bytes() == before


def test_held_out_images_are_evaluated_month_after_month(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    model, folder = tmp_path / "m.safetensors", pictures("all", ["rose", "tulip"], 10)
    first = equimos("learn", "--yes", "-i", folder, "-m", model, "--weights", weights, *QUICK)
    assert "held-out images of new classes: 100.0% of 4 right" in first.stderr
    pictures("all", ["iris"], 10)
    second = equimos("learn", "--yes", "-i", folder, "-m", model)
    assert "held out before, and still here: 4 images" in second.stderr
    assert "of classes known before: 100.0% of 4 right, 100.0% before; 0 broke, 0 fixed" in second.stderr
    shutil.rmtree(folder / "rose")
    pictures("all", ["lily"], 10)
    third = equimos("learn", "--yes", "-i", folder, "-m", model)
    assert "of classes known before: 100.0% of 4 right" in third.stderr
    assert "nothing can be said of 1 class known before" in third.stderr
    listed = json.loads(equimos("history", "-m", model, "--json", "-").stdout)
    assert [row["held_out"]["images"] for row in listed] == [4, 6, 6]
    assert "100.0%" in equimos("history", "-m", model).stdout
    assert continual.load(model).state.prototypes.count.tolist() == [8, 8, 8, 8]


@pytest.mark.parametrize(
    ("method", "own", "heeds"),
    [
        ("mos", {}, True),
        ("slca", {}, True),
        ("tuna", {}, True),
        ("mos", {"stage_one": "ridge"}, False),
        ("mos", {"alignment_epochs": 0}, False),
        ("strata", {}, False),
        ("finetune", {}, False),
    ],
)
def test_what_would_keep_answers_is_advised_where_it_would_and_can_be_followed(
    equimos: Equimos,
    tmp_path: Path,
    pictures: Pictures,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    own: dict[str, Any],
    heeds: bool,
) -> None:
    monkeypatch.setattr(Review, "shares_lost", lambda _: [0.5])
    model, folder = tmp_path / "m.safetensors", pictures("all", ["rose", "tulip"], 10)
    known = methods()[method].settings_type.model_fields
    quick = {"epochs": 1, "batch_size": 8, "bottleneck": 4, "alignment_epochs": 1, **own}
    options = [word for name, value in quick.items() if name in known for word in ("--set", f"{name}={value}")]
    first = ("learn", "--yes", "-i", folder, "-m", model)
    assert equimos(*first, "--weights", weights, "--method", method, *options).exit_code == 0
    pictures("all", ["iris"], 10)
    advised = "; --set keep_answers=1 holds the head to the answers it gave"
    refused = equimos(*first, "--max-flips", 0.1)
    assert refused.exit_code == 1, refused.stderr
    assert (advised in refused.stderr) == heeds
    if heeds:
        again = equimos(*first, "--max-flips", 0.1, "--set", "keep_answers=1")
        assert again.exit_code == 1, again.stderr
        assert advised not in again.stderr, "it is followed"
        assert equimos(*first, "--max-flips", 0.6, "--set", "keep_answers=1").exit_code == 0


def test_what_broke_is_said_by_class_pair_and_may_be_refused(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    """Half of the tulips come back under another name: some that were right are not any more."""
    model, folder = tmp_path / "m.safetensors", pictures("all", ["rose", "tulip"], 20)
    assert equimos("learn", "--yes", "-i", folder, "-m", model, "--weights", weights, *QUICK).exit_code == 0
    before, twins = model.read_bytes(), pictures("twins", ["tulip"], 40) / "tulip"
    for path in sorted(twins.iterdir(), key=lambda path: int(path.stem))[:20]:
        path.unlink()
    twins.rename(folder / "parrot")
    result = equimos("learn", "--yes", "-i", folder, "-m", model, "--max-flips", 0.01)
    assert (result.exit_code, result.stdout) == (1, "")
    row = next(line.split() for line in result.stderr.splitlines() if line.startswith("tulip "))
    assert row[1] == "parrot"
    assert 1 <= int(row[2]) <= 4
    assert f"{int(row[2])} broke" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last == f"not kept, for {int(row[2]) / 8:.1%} of the answers broke (--max-flips 0.01); {model} is as it was"
    assert model.read_bytes() == before
    assert equimos("learn", "--yes", "-i", folder, "-m", model, "--max-flips", 0.5).exit_code == 0
    held = json.loads(equimos("history", "-m", model, "--json", "-").stdout)[-1]["held_out"]
    assert held["negative_flips"] == int(row[2])
    assert 0 < held["accuracy"] < 1


def test_a_limit_that_cannot_be_checked_refuses(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    model, words = tmp_path / "m.safetensors", ("--hold-out", 0, "--max-flips", 0.5)
    first = pictures("first", ["rose"])
    assert equimos("learn", "--yes", "-i", first, "-m", model, "--weights", weights, *QUICK, *words).exit_code == 0
    result = equimos("learn", "--yes", "-i", pictures("second", ["iris"]), "-m", model, *words)
    assert result.exit_code == 1
    assert "nothing to check --max-flips on" in result.stderr.splitlines()[-1]


def test_classes_without_images_are_judged_by_their_statistics(
    equimos: Equimos, model: Path, pictures: Pictures
) -> None:
    result = equimos("learn", "--yes", "-i", pictures("more", ["iris"], 5), "-m", model)
    assert "no held-out image is here of 2 classes known before; by their statistics about" in result.stderr


def test_history_says_the_estimate_where_nothing_was_measured(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    """Of held-out images that are all of new classes none can break: no "broke 0" where an estimate says otherwise."""
    model = tmp_path / "m.safetensors"
    words = ("learn", "--yes", "--weights", weights, "-m", model)
    first = pictures("first", ["rose", "tulip"], 10)
    assert equimos(*words, "-i", first).exit_code == 0
    second = equimos(*words, "-i", pictures("second", ["iris", "lily", "aster"], 10))
    (share,) = re.findall(r"by their statistics about (\S+%) of the answers broke", second.stderr)
    assert equimos(*words, "-i", pictures("third", ["crocus"], 10), "--hold-out", 0).exit_code == 0
    shutil.copytree(first, tmp_path / "fourth")
    assert equimos(*words, "-i", pictures("fourth", ["daisy"], 10)).exit_code == 0
    told = [line.split("KiB" if "KiB" in line else "MiB")[1].split("  ") for line in _history(equimos, model)]
    right, broke = zip(*[[cell.strip() for cell in cells if cell.strip()][:2] for cells in told], strict=True)
    assert [cell.split("% of ")[-1] for cell in right] == ["4", "6", "–", "6"]
    assert broke[0] == "–", "nothing was known before"
    assert broke[1] == f"about {share} for 2 classes (an estimate)"
    assert re.fullmatch(r"about \S+% for 5 classes \(an estimate\)", broke[2])
    assert re.fullmatch(r"\d of 4, about \S+% for 4 classes \(an estimate\)", broke[3])
    held = json.loads(equimos("history", "-m", model, "--json", "-").stdout)
    assert [row["held_out"]["known_before"] for row in held] == [0, 0, 0, 4]
    assert [row["held_out"]["negative_flips"] is None for row in held] == [True, True, True, False]


def _history(equimos: Equimos, model: Path) -> list[str]:
    return [*equimos("history", "-m", model).stdout.splitlines()[1:]]


def test_the_default_method_judges_classes_whose_images_are_gone(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    """From its sums, also for --max-flips; a method that keeps no such thing says what would."""
    months = [pictures("first", ["rose", "tulip"]), pictures("second", ["iris", "lily", "aster"])]
    for method in (RECOMMENDED, "simple_cil"):
        model = tmp_path / f"{method}.safetensors"
        words = ("-m", model, "--yes", "--hold-out", 0)
        assert equimos("learn", "-i", months[0], "--weights", weights, "--method", method, *words).exit_code == 0
        result = equimos("learn", "-i", months[1], "--max-flips", 1, *words)
        if method == RECOMMENDED:
            assert result.exit_code == 0
            assert "of 2 classes known before; by their statistics about" in result.stderr
        else:
            assert result.exit_code == 1
            assert "nothing can be said of 2 classes known before" in result.stderr
            assert "--keep-held-out 10" in result.stderr


def test_a_review_counts() -> None:
    found = Review(["a", "a", "b", "b", "c"], ["a", "a", "b", "a", None], ["a", "b", "c", "b", "c"])
    assert found.negative == {("a", "b"): 1, ("b", "c"): 1}
    assert found.positive == 1
    assert found.shares_lost() == [2 / 4]
    counted = {"images": 5, "accuracy": 3 / 5, "known_before": 4, "negative_flips": 2, "positive_flips": 1}
    assert found.figures() == {**counted, "estimate": None}
    found.simulated = {"d": 0.1, "e": 0.3}
    assert found.figures() == {**counted, "estimate": {"classes": 2, "broken": pytest.approx(0.2)}}
    assert found.shares_lost() == [0.5, pytest.approx(0.2)]


def test_edits_keep_the_seen_images_true(equimos: Equimos, model: Path, flowers: Path, pictures: Pictures) -> None:
    def labels() -> list[Any]:
        return sorted(image.label for image in contents.read(model).seen.images)

    assert labels() == ["rose"] * 4 + ["tulip"] * 4
    assert equimos("rename", "rose", "wild rose", "-m", model).exit_code == 0
    assert labels() == ["tulip"] * 4 + ["wild rose"] * 4
    odd = pictures("odd", ["iris"]) / "iris"
    assert equimos("correct", odd, flowers / "rose" / "0.png", "--class", "tulip", "-m", model).exit_code == 0
    assert labels() == ["tulip"] * 9 + ["wild rose"] * 3
    assert equimos("forget", "tulip", "-m", model).exit_code == 0
    assert labels() == ["wild rose"] * 3
    result = equimos("learn", "--yes", "-i", flowers, "-m", model)
    assert "left out, for they were forgotten: tulip" in result.stderr
    assert equimos("learn", "--yes", "-i", flowers, "-m", model, "--class", "tulip").exit_code == 0
    assert continual.load(model).classes == ("wild rose", "tulip")
    assert contents.read(model).seen.forgotten == ()


def test_a_class_forgotten_everywhere_leaves_no_name(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    assert equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model).exit_code == 0
    assert equimos("forget", "iris", "--everywhere", "-m", model).exit_code == 0
    events = "learned iris", "forgot iris"
    whole = b"".join(version.path.read_bytes() for version in versions.versions(model))
    for event in events:
        whole = whole.replace(event.encode(), b"")
    assert b"iris" not in whole


def test_a_link_to_a_model_file_stays_one(equimos: Equimos, model: Path, pictures: Pictures, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "current.safetensors"
    link.symlink_to(Path("..") / "models" / model.name)
    assert equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", link).exit_code == 0
    assert link.is_symlink()
    assert [path.name for path in link.parent.iterdir()] == [link.name]
    assert continual.load(model).classes == ("rose", "tulip", "iris")
    assert equimos("rollback", "-m", link).exit_code == 0
    assert continual.load(link).classes == continual.load(model).classes == ("rose", "tulip")
    assert link.is_symlink()
    assert len(versions.versions(link)) == len(versions.versions(model)) == 2


def test_sizes_and_precision_of_a_model_can_be_changed(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    more, before = pictures("more", ["iris"]), model.read_bytes()
    refused(equimos("learn", "--yes", "-i", more, "-m", model, "--set", "bottleneck=8"), "bottleneck=8 (it is 4)")
    for said in (("--set", "eval_batch_size=0"), ("--set", "precision=float8")):
        refused(equimos("learn", "--yes", "-i", more, "-m", model, *said), said[1].split("=")[0])
        refused(equimos("predict", more, "-m", model, *said), said[1].split("=")[0])
    refused(equimos("predict", more, "-m", model, "--set", "batch_size=2"), "--set batch_size", "eval_batch_size")
    words = ("--set", "eval_batch_size=3", "--set", "precision=bfloat16")
    assert equimos("predict", more, "-m", model, *words).exit_code == 0
    assert model.read_bytes() == before, "predict changes nothing"
    result = equimos("learn", "--yes", "-i", more, "-m", model, *words, "--set", "batch_size=2")
    assert result.exit_code == 0, result.stderr
    kept = continual.load(model).settings
    assert (kept.eval_batch_size, kept.precision, kept.batch_size, kept.bottleneck) == (3, "bfloat16", 2, 4)


@pytest.mark.parametrize("command", ["learn", "predict", "correct"])
def test_out_of_memory_is_one_line_and_loses_nothing(
    equimos: Equimos, model: Path, pictures: Pictures, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator's own error, for more memory than there is anywhere."""
    more, before = pictures("more", ["iris"]), model.read_bytes()
    words = {"learn": ["--yes", "-i", more], "predict": [more], "correct": [more, "--class", "rose"]}
    monkeypatch.setattr(MOSLearner, "_scores", lambda *_, **__: torch.empty(2**60, dtype=torch.uint8))
    result = equimos(command, *words[command], "-m", model)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: out of memory: a smaller batch_size")
    assert "Traceback" not in result.stderr
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_a_model_saved_in_python_has_no_seen_images(equimos: Equimos, model: Path, flowers: Path) -> None:
    continual.load(model).save(model)
    result = equimos("learn", "--yes", "-i", flowers, "-m", model)
    assert "not recorded: rose, tulip; --class NAME learns" in result.stderr
    assert "nothing new" in result.stdout


# What is refused before anything is read, asked or loaded


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-i", "nothere"), "no folder at nothere"),
        (("--hold-out", "nan"), "--hold-out"),
        (("--hold-out", "7"), "--hold-out"),
        (("--max-flips", "nan"), "--max-flips"),
        (("--class", "ros"), "no class folder 'ros': did you mean 'rose'"),
        (("--set", "nonsense=1"), "unknown setting 'nonsense'"),
        (("--method", "moss"), "unknown method 'moss'"),
        (("--backbone", "vit_tiny_patch16_225.x"), "unknown timm model"),
        (("--backbone", "vit_tiny_patch16_224.nonsense"), "has no tag 'nonsense'"),
        ((), "`equimos list backbones` recommends"),
    ],
)
def test_errors_come_in_the_right_order(
    equimos: Equimos,
    flowers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    """There is no terminal either; no image may be looked at, no weights loaded."""
    monkeypatch.setattr("continual.lifecycle.new_images.plan", lambda *_, **__: pytest.fail("images were read"))
    monkeypatch.setattr("continual.backbones.loading.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("continual.backbones.recommended.in_cache", lambda _: False)
    refused(equimos("learn", "-i", flowers, "-m", tmp_path / "m.safetensors", *words), said)


def test_a_missing_folder_is_found_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from continual.cli.app import app\n"
        "try: app(['learn', '-i', 'nothere', '-m', 'x'])\n"
        "except SystemExit as stop: sys.exit(9 if {'torch', 'timm'} & sys.modules.keys() else stop.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("no folder at nothere")) == (2, 1), done.stderr


def test_a_backbone_that_cannot_be_had_is_refused_before_images_are_read(
    equimos: Equimos, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("continual.lifecycle.new_images.plan", lambda *_, **__: pytest.fail("images were read"))
    words = ("learn", "--yes", "-i", flowers, "-m", tmp_path / "m.safetensors")
    refused(equimos(*words, "--weights", tmp_path / "gone.safetensors"), "gone.safetensors")
    refused(equimos("predict", tmp_path / "nothere", "-m", tmp_path / "m.safetensors"), "no image at", "nothere")


def test_a_backbone_is_proposed(
    equimos: Equimos, flowers: Path, tmp_path: Path, weights: Path, answers: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose weights are here is taken; else one may be fetched, if the answer is yes."""
    asked: list[Any] = []
    there = {"vit_tiny_patch16_224.augreg_in21k"}
    monkeypatch.setattr("continual.backbones.recommended.in_cache", lambda tag: tag in there)
    real = load_backbone
    monkeypatch.setattr(
        "continual.backbones.loading.load_backbone",
        lambda name, **options: asked.append((name, options)) or real(weights=weights),
    )
    monkeypatch.setattr("continual.cli.opening.can_ask", lambda: True)
    monkeypatch.setattr("continual.cli.opening.confirmed", lambda _: answers.pop(0))
    words = ("learn", "-i", flowers, "-m", tmp_path / "m.safetensors", "--dry-run", *QUICK)
    result = equimos(*words)
    assert "--backbone vit_tiny_patch16_224.augreg_in21k is taken" in result.stderr
    there.clear()
    answers += [False]
    refused(equimos(*words), "--backbone TAG", "vit_small_patch14_dinov2.lvd142m")
    answers += [True]
    assert "vit_small_patch14_dinov2.lvd142m --model-arg img_size=98 is taken" in (
        equimos(*words, "--model-arg", "img_size=98").stderr
    )
    assert asked == [
        ("vit_tiny_patch16_224.augreg_in21k", {"weights": None}),
        ("vit_small_patch14_dinov2.lvd142m", {"weights": None, "img_size": 98}),
    ]


# What is said of what is held out


def test_a_split_folder_is_learned_by_its_training_part(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    root = pictures("all", ["train/rose", "train/tulip", "test/rose", "test/tulip"], 5)
    model = tmp_path / "m.safetensors"
    result = equimos("learn", "--yes", "-i", root, "-m", model, "--weights", weights, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert f"what is new in {root / 'train'} is learned; test/ is left alone" in result.stderr
    assert continual.load(model).classes == ("rose", "tulip")


def test_what_is_not_held_out_is_said_in_plan_and_result(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    model, folder = tmp_path / "m.safetensors", pictures("all", ["rose", "tulip"], 4)
    result = equimos("learn", "--yes", "-i", folder, "-m", model, "--weights", weights)
    said = "note: nothing is held out of rose, tulip: how well that is learned is not known"
    assert result.stderr.splitlines().count(said) == 2, "before and after"
    pictures("all", ["iris"], 10)
    result = equimos("learn", "--yes", "-i", folder, "-m", model, "--max-flips", 1)
    assert "note: --max-flips rests on an estimate for every class known before" in result.stderr
    pictures("all", ["lily"], 10)
    result = equimos("learn", "--yes", "-i", folder, "-m", model, "--max-flips", 1)
    assert "note: --max-flips rests on an estimate for 2 classes known before" in result.stderr


def test_an_image_swapped_between_plan_and_learning_is_refused(
    equimos: Equimos, model: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, folder = model.read_bytes(), pictures("more", ["iris", "lily"], 5)

    def swapped(question: str) -> bool:
        shutil.copy(folder / "lily" / "0.png", folder / "iris" / "0.png")
        return True

    monkeypatch.setattr(learn, "can_ask", lambda: True)
    monkeypatch.setattr(learn, "confirmed", swapped)
    refused(equimos("learn", "-i", folder, "-m", model), f"{folder / 'iris' / '0.png'} has changed since the plan")
    assert model.read_bytes() == before


def test_the_plan_and_info_say_how_much_of_a_checkpoint_matched(
    equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path
) -> None:
    """And the model file keeps it, also where the backbone is embedded and the checkpoint is gone."""
    tensors, metadata = files.fetch(weights)
    state = {f"module.{name}": tensor for name, tensor in tensors.items()} | {"epoch": torch.zeros(1)}
    files.store(tmp_path / "trained.safetensors", state, metadata)
    model, said = (
        tmp_path / "m.safetensors",
        f"all {len(tensors)} tensors of the network found under 'module.'; 1 others",
    )
    words = ["learn", "--yes", "-i", flowers, "-m", model, "--weights", tmp_path / "trained.safetensors"]
    learned = equimos(*words, "--embed-backbone", "--method", "simple_cil")
    assert learned.exit_code == 0, learned.stderr
    assert said in " ".join((learned.stdout + learned.stderr).split())
    (tmp_path / "trained.safetensors").unlink()
    assert said in " ".join(equimos("info", "-m", model).stdout.split())
    assert equimos("forget", "rose", "-m", model).exit_code == 0
    assert said in " ".join(equimos("info", "-m", model).stdout.split())
