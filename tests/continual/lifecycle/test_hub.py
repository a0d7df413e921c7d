"""Models go to the hub and come back, with a card of measured figures: against a local stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import continual
from continual.errors import ModelFileError
from continual.lifecycle.model_card import Measured, labelled_folder, measure
from tests.support.hub import local_hub


def test_a_model_goes_there_and_comes_back(model: Path, weights: Path, flowers: Path, tmp_path: Path) -> None:
    with local_hub() as (address, hub):
        learner = continual.load(model)
        text = continual.push_to_hub(
            model, "me/flowers", images=flowers, learner=learner, license="mit", token="x", endpoint=address
        )
        assert hub.private["me/flowers"], "unless it is asked for, nobody else sees it"
        assert hub.repositories["me/flowers"]["README.md"].decode() == text
        assert hub.repositories["me/flowers"]["model.safetensors"] == model.read_bytes()
        back = continual.from_hub("me/flowers", weights=[weights], token="x", endpoint=address, cache=tmp_path / "c")
        images, _ = labelled_folder(flowers, learner.classes)
        assert torch.equal(back.predict(images).scores, learner.predict(images).scores)
        with pytest.raises(ModelFileError, match="me/nothing"):
            continual.from_hub("me/nothing", token="x", endpoint=address, cache=tmp_path / "c")
    found = measure(learner, *labelled_folder(flowers, learner.classes))
    assert text.startswith("---\nlibrary_name: equimos\n")
    assert "license: mit" in text
    assert f"| accuracy | {found.accuracy:.1%} |" in text
    assert f"| answered alike in all four quarter turns | {found.consistency:.1%} |" in text
    assert "rose, tulip" in text
    assert "no image, and a digest" in text


def test_what_is_measured_is_right(model: Path, flowers: Path) -> None:
    learner = continual.load(model)
    images, labels = labelled_folder(flowers, learner.classes)
    found = measure(learner, images, labels)
    assert found.images == len(images)
    assert found.accuracy == pytest.approx(learner.evaluate(images, labels))
    assert 0 <= found.consistency <= 1
    assert found.calibration_error is not None
    wrong = measure(learner, images, [*labels[1:], labels[0]][::-1])
    assert wrong.accuracy != found.accuracy


def test_a_card_says_what_was_not_measured(model: Path) -> None:
    from continual.lifecycle import contents
    from continual.lifecycle.model_card import card

    found = contents.read(model)
    assert "Nothing was measured for this card" in card(found, "me/x")
    assert "licence: not known" in card(found, "me/x")
    some: Any = card(found, "me/x", Measured(4, 0.5, None, None, 1.0))
    assert "| expected calibration error | no probabilities |" in some


def test_the_commands(
    equimos: Any, model: Path, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_hub() as (address, hub):
        from huggingface_hub import HfApi

        import continual.lifecycle.hub as ours

        refused = ours._api(None, None)[1]
        monkeypatch.setattr(ours, "_api", lambda *_: (HfApi(address, "x"), refused))
        done = equimos("push", "me/flowers", "--model", model, "--images", flowers, "--yes", "--public")
        assert done.exit_code == 0, done.stderr
        assert not hub.private["me/flowers"]
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        got = equimos("pull", "me/flowers", "--model", tmp_path / "back.safetensors")
        assert got.exit_code == 0, got.stderr
        assert (tmp_path / "back.safetensors").read_bytes() == model.read_bytes()
        again = equimos("pull", "me/flowers", "--model", tmp_path / "back.safetensors")
        assert again.exit_code == 2
        assert "is there already" in again.stderr
