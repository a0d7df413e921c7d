"""Any Avalanche strategy as a method of a benchmark."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from continual.avalanche.external import find_method
from continual.backbones.loading import fingerprint
from continual.datasets.streams import split_classes
from continual.errors import InputError
from continual.experiments.config import MethodConfig
from continual.experiments.run import run_cell
from continual.learning.concept import Concept
from continual.learning.settings import make
from continual.methods.mos.learner import MOSLearner
from continual.metrics.accuracy import accuracy
from continual.testing import tiny_convnet

SUPERVISED = "avalanche.training.supervised:"
pytestmark = [
    # Avalanche's own, of today's torch and of its next release.
    pytest.mark.filterwarnings("ignore:Call to deprecated function update:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
]
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.05}
LWF = {"alpha": 1.0, "temperature": 2.0}


def stream(blobs: Any) -> Any:
    return split_classes("blobs", blobs([0, 1, 2, 3], 6), blobs([0, 1, 2, 3], 2, seed=1), sizes=2, seed=None)


def run(backbone: Any, blobs: Any, name: str, **settings: Any) -> Any:
    config = MethodConfig(method=SUPERVISED + name, settings={**QUICK, **settings})
    learner, cells = run_cell(name, config, backbone, stream(blobs), seed=3)
    return learner, cells[0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Naive", {"epochs": 4}),
        ("LwF", LWF),
        ("EWC", {"ewc_lambda": 0.4}),
        ("Replay", {"mem_size": 5}),
    ],
)
def test_a_strategy_gives_a_cell_like_a_method(backbone: Any, blobs: Any, name: str, settings: Any) -> None:
    before = backbone.sha256
    learner, cell = run(backbone, blobs, name, **settings)
    assert cell.complete
    assert cell.method == SUPERVISED + name
    assert cell.settings["seed"] == 3
    assert len(accuracy(cell)) == 2
    assert accuracy(cell)[0][0] >= 0.5
    assert learner.classes == (0, 1, 2, 3)
    assert learner.backbone.sha256 == before
    assert all(isinstance(size, int) and size > 0 for size in cell.each("memory"))


def test_answers_are_those_of_evaluation_mode(backbone: Any, blobs: Any) -> None:
    learner, _ = run(backbone, blobs, "Naive", train_backbone=False)
    model = learner.strategy.model
    # Dropout in the head, which Avalanche leaves in training mode after its own training.
    model.classifier.classifier = torch.nn.Sequential(torch.nn.Dropout(0.9), model.classifier.classifier)
    model.train()
    images = blobs([0, 1], 2, seed=2)[0]
    assert torch.equal(learner.predict(images).scores, learner.predict(images).scores)


def test_the_same_seed_gives_the_same_bits_and_the_global_state_stays(backbone: Any, blobs: Any) -> None:
    state = torch.random.get_rng_state()
    first = run(backbone, blobs, "LwF", **LWF)[0].predict(blobs([0, 3], 2, seed=2)[0])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = run(backbone, blobs, "LwF", **LWF)[0].predict(blobs([0, 3], 2, seed=2)[0])
    assert torch.equal(first.scores, again.scores)


def test_memory_is_all_that_is_kept(backbone: Any, blobs: Any) -> None:
    head = 4 * (4 * backbone.width + 4) + 4  # weight and bias, and a byte a class that says it was seen
    backbone_size = 4 * sum(p.numel() for p in backbone.frozen.network.parameters())
    frozen, _ = run(backbone, blobs, "Naive", train_backbone=False)
    assert frozen.memory() == {"model": head}
    trained, _ = run(backbone, blobs, "Naive")
    assert trained.memory() == {"model": head + backbone_size}
    copied, _ = run(backbone, blobs, "LwF", **LWF)
    assert copied.memory() == {"model": head + backbone_size, "plugins": head + backbone_size}
    exemplars, _ = run(backbone, blobs, "Replay", mem_size=5, train_backbone=False)
    assert exemplars.memory()["exemplars"] == 5 * 3 * 16 * 16


def test_a_cnn_is_trained_as_a_copy(blobs: Any) -> None:
    frozen = tiny_convnet()
    before = fingerprint(frozen.frozen.network)
    learner, _ = run(frozen, blobs, "Naive")
    weights = learner.strategy.model.copy["layer4/0/conv1/weight"]
    assert not torch.equal(weights, frozen.frozen.network.get_parameter("layer4.0.conv1.weight"))
    assert fingerprint(frozen.frozen.network) == before


def test_a_method_by_name_is_found_as_before() -> None:
    assert find_method("mos") is MOSLearner


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (SUPERVISED + "LwFF", "avalanche.training.supervised has no 'LwFF': did you mean 'LwF'"),
        ("avalanche.training.superwised:LwF", "No module named"),
        ("json:dumps", "no strategy 'dumps' in json"),
        (SUPERVISED + "ICaRL", "makes its own model or optimizer"),
    ],
)
def test_a_wrong_path_is_one_line(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        find_method(path)
    assert "\n" not in str(found.value)


def test_wrong_arguments_are_one_line() -> None:
    kind = find_method(SUPERVISED + "LwF").settings_type
    with pytest.raises(InputError, match="unknown setting 'temprature': did you mean 'temperature'"):
        make(kind, **LWF, temprature=2.0)
    with pytest.raises(InputError, match="alpha: Field required"):
        make(kind, temperature=2.0)
    with pytest.raises(InputError, match="mem_size: Input should be a valid integer"):
        make(find_method(SUPERVISED + "Replay").settings_type, mem_size="many")


def test_what_it_cannot_do_is_refused(backbone: Any, blobs: Any, tmp_path: Any) -> None:
    learner, _ = run(backbone, blobs, "Naive", train_backbone=False)
    with pytest.raises(InputError, match="call learn"):
        learner.begin(None)
    with pytest.raises(InputError, match="cannot be saved"):
        learner.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_a_strategy_cannot_learn_from_is_refused(backbone: Any, blobs: Any) -> None:
    learner = find_method(SUPERVISED + "Naive")(backbone, epochs=1)
    images, labels = blobs([0, 1], 4)
    for given in ({"unlabelled": images}, {"ignoring": Concept.of(images, stamp=Image.new("RGB", (4, 4)))}):
        with pytest.raises(InputError, match="Naive takes neither unlabelled images nor a concept to ignore"):
            learner.learn(images, labels, **given)
    assert learner.classes == ()
