"""`equimos equivariance check` on names, weights files, learners and wrappers, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture
def check(equimos: Equimos) -> Equimos:
    return lambda *words: equimos("equivariance", "check", *words, "--device", "cpu")


def test_a_plain_network_is_not_equivariant_and_a_wrapped_one_is(check: Equimos, weights: Path, flowers: Path) -> None:
    plain = check(weights, "--images", flowers, "--number", 3)
    assert plain.exit_code == 1, plain.output
    assert "NOT equivariant to C4" in plain.stdout
    assert "3 images of" in plain.stdout
    (worst,) = [line.split()[0] for line in plain.stdout.splitlines() if line.endswith("worst")]
    assert f"for {worst}, on" in plain.stdout
    for wrapper in ("equitune", "lambda", "equizero", "canonicaliser", "max", "pruned,blocks=1,keep=2"):
        done = check(weights, "--group", "D4", "--wrapper", wrapper)
        assert done.exit_code == 0, (wrapper, done.output)
        assert "is equivariant to D4" in done.stdout


def test_json_says_what_the_table_says(check: Equimos, weights: Path, flowers: Path, tmp_path: Path) -> None:
    done = check(weights, "-g", "C8", "--images", flowers, "--json", tmp_path / "x.json", "--wrapper", "equitune")
    found = json.loads((tmp_path / "x.json").read_text())
    assert [e["tolerance"] for e in found["elements"]] == [1e-5, 0.1] * 4
    assert found["equivariant"] is (done.exit_code == 0)
    assert f"{found['largest_error']:.1e}" in done.stdout
    assert done.stdout.count("interpolated") == 4


def test_double_precision_is_held_to_more(check: Equimos, weights: Path, tmp_path: Path) -> None:
    done = check(weights, "--float64", "--wrapper", "equitune", "--json", "-")
    assert done.exit_code == 0
    assert {e["tolerance"] for e in json.loads(done.stdout)["elements"]} == {1e-12}


def test_the_report_has_elements_layers_sizes_and_a_picture(check: Equimos, weights: Path, tmp_path: Path) -> None:
    done = check(weights, "--report", tmp_path / "new" / "report")
    assert done.exit_code == 1
    files = {p.suffix: p for p in (tmp_path / "new" / "report").iterdir()}
    assert files.keys() == {".json", ".txt", ".png"}
    found = json.loads(files[".json"].read_text())
    assert {"0.network.blocks.0", "0.network.norm", "1"} <= found["layers"].keys()
    assert "16" in found["sizes"]
    assert "by image size" in files[".txt"].read_text()


def test_a_model_of_learn(check: Equimos, trained: Path, flowers: Path) -> None:
    done = check(trained, "--images", flowers)
    assert done.exit_code == 1, done.output
    assert "the same answer over the whole orbit" in done.stdout
    assert check(trained, "--images", flowers, "--wrapper", "equizero").exit_code == 0


def test_a_classifier_s_own_head_comes_from_its_weights(check: Equimos, tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    words = ("tf_efficientnet_lite0", "--weights", tmp_path / "w.safetensors", "--size", 32, "--number", 2)
    done = check(*words, "--wrapper", "equizero,proxy=similarity")
    assert done.exit_code == 0, done.output
    assert "100.0%" in done.stdout
    assert check(*words, "--wrapper", "pruned,blocks=1").exit_code == 0
    refused(check(*words, "--wrapper", "pruned,blocks=99"), "blocks=99")


def test_torchvision(check: Equimos, tmp_path: Path) -> None:
    from torchvision import models

    torch.save(models.resnet18(num_classes=3).state_dict(), tmp_path / "w.pth")
    words = ("--weights", tmp_path / "w.pth", "--size", 32, "--number", 2)
    done = check("torchvision/resnet18", *words, "--model-arg", "num_classes=3", "--wrapper", "lambda")
    assert done.exit_code == 0, done.output
    refused(check("torchvision/resnet18", *words), "does not fit 'torchvision/resnet18'", "fc.weight")
    refused(check("torchvision/resnet81"), "did you mean 'resnet18'")
    refused(check("torchvision/resnet18"), "IMAGENET1K_V1")


def test_groups_that_are_unknown_or_could_mean_two_things(check: Equimos, weights: Path) -> None:
    refused(check(weights, "--group", "C44x"), "unknown group", "C4")
    refused(check(weights, "--group", "flip"), "mirror_h", "mirror_v")


def test_models_that_are_not_there(check: Equimos, weights: Path, other_weights: Path, tmp_path: Path) -> None:
    refused(check("vit_tiny_patch61_224.augreg_in21k"), "unknown timm model", "did you mean")
    refused(check("vit_tiny_patch16_224"), "needs its weights' tag")
    refused(check(tmp_path / "no.safetensors"), "no weights file at", tmp_path / "no.safetensors")
    refused(check(tmp_path), "is a folder")
    refused(check(weights, "--weights", other_weights), "both give weights")
    nameless = tmp_path / "nameless.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(weights), nameless)
    refused(check(nameless), "does not say which timm model")
    refused(check("vit_tiny_patch16_224", "--weights", nameless), "does not fit 'vit_tiny_patch16_224'")
    refused(check("clip/ViT-B-23.openai"), "ViT-B-32")
    refused(check("clip/ViT-B-32"), "weights' tag", "'openai'")


def test_options_that_do_not_fit(check: Equimos, weights: Path, trained: Path, tmp_path: Path) -> None:
    refused(check(weights, "--wrapper", "equizeroo"), "unknown wrapper", "did you mean 'equizero'")
    refused(check(weights, "--wrapper", "equitune,proxy=entropy"), "proxy is an option of 'anytime' and 'equizero'")
    refused(check(weights, "--wrapper", "equizero,proxxy=entropy"), "did you mean 'proxy'")
    refused(check(weights, "--wrapper", "pruned,blocks=7"), "blocks=7")
    refused(check(weights, "--wrapper", "equizero,proxy=similarity"), "similarity", "linear head")
    refused(check(weights, "--images", tmp_path / "none"), "no folder")
    (tmp_path / "empty").mkdir()
    refused(check(weights, "--images", tmp_path / "empty"), "no images")
    refused(check(weights, "--size", 30), "args.img_size=30")
    refused(check(weights, "--model-arg", "img_siz=32"), "img_siz")
