"""The main job on real images and a real pretrained ViT: a small stream, learned, saved and asked again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import continual
from continual.datasets.config import load_data
from continual.datasets.streams import split_classes
from continual.experiments.config import DataConfig


@pytest.mark.shared
def test_mos_learns_real_classes_and_keeps_them(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "tiny_imagenet_100"
    train, test = load_data(DataConfig(source="folder", train=folder / "train", test=folder / "test"))
    stream = split_classes("Tiny-ImageNet", train, test, sizes=4, max_classes=8, per_class=10)
    weights = shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors"
    backbone = continual.load_backbone(weights=weights, img_size=56, crop_scale=(0.4, 1.0))
    learner = continual.MOSLearner(backbone, epochs=2, batch_size=8, precision="bfloat16")
    for experience in stream.experiences:
        learner.learn(experience.train_images, experience.train_labels)

    accuracies = [learner.evaluate(e.test_images, e.test_labels) for e in stream.experiences]
    assert min(accuracies) > 0.3, f"chance is 0.125, these are {accuracies}"

    learner.save(tmp_path / "model.safetensors")
    asked = stream.experiences[0].test_images[:40]
    loaded = continual.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.predict(asked).scores, learner.predict(asked).scores)
