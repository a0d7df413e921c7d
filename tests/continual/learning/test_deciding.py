"""`group="auto"`: decided in the first experience, kept in state and file, and a concrete group from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual import files
from continual.data.inputs import as_experience
from continual.errors import InputError, ModelFileError
from continual.learning.learner import IncrementalLearner
from continual.lifecycle import contents, estimate
from continual.methods import methods
from continual.methods.mos.learner import MOSLearner
from continual.methods.ridge import RidgeLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.methods.strata import StrataLearner
from continual.testing import LAWS, Law, coloured_squares, synthetic_case, tiny_backbone
from continual.testing.editing import learning_and_forgetting_is_never_having_learned
from equivariant.orbits import orbit

FROZEN = tiny_backbone()
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "bottleneck": 4, "alignment_epochs": 1, "projection": 50}

Learner = IncrementalLearner[Any]


def without_up(classes: list[int], per_class: int = 8) -> tuple[Tensor, list[int]]:
    """Coloured squares, each in a position of its own."""
    images, labels = coloured_squares(classes, per_class)
    views = orbit("D4", images.float()).to(torch.uint8)
    places = torch.randint(8, (len(images),), generator=torch.Generator().manual_seed(0))
    return views[places, torch.arange(len(images))], list(labels)


def with_up(classes: list[int], per_class: int = 8) -> tuple[Tensor, list[int]]:
    """One pattern in eight positions: which one it is in is the class."""
    images = orbit("D4", coloured_squares([0], per_class)[0].float()).to(torch.uint8)
    return torch.cat([images[c] for c in classes]), [c for c in classes for _ in range(per_class)]


def make(kind: type[Learner] = RidgeLearner, **settings: Any) -> Any:
    known = {name: value for name, value in QUICK.items() if name in kind.settings_type.model_fields}
    return kind(FROZEN, **{**known, "group": "auto", **settings})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("strata", "mos") else pytest.mark.slow) for name in methods()]
)
def test_every_method_learns_with_the_group_that_its_images_have(name: str) -> None:
    kind = methods()[name]
    settings: dict[str, Any] = {"mirror": False} if kind is StrataLearner else {}
    for images, group in ((without_up, "D4"), (with_up, None)):
        decided, stated = make(kind, **settings), make(kind, group=group, **settings)
        for classes in ([0, 1, 2], [3, 4]):
            data = as_experience(*images(classes), decided.preprocessing)
            decided.learn(data)
            stated.learn(data)
        assert decided.state.choice.group == group
        assert (decided.symmetry is None) == (group is None)
        test = decided.preprocessing.evaluation()
        prepared = torch.stack([test(image) for image in coloured_squares(range(5), 2, seed=1)[0]])
        assert torch.equal(decided.predict(prepared).scores, stated.predict(prepared).scores)


def test_strata_leaves_the_mirror_image_out_that_is_among_all_views() -> None:
    learner = make(StrataLearner)
    assert learner.mirrored
    learner.learn(*without_up([0, 1, 2]))
    assert not learner.mirrored
    upright = make(StrataLearner)
    upright.learn(*with_up([0, 1, 2]))
    assert upright.mirrored


def test_later_experiences_and_corrections_do_not_decide_again() -> None:
    learner = make()
    learner.learn(*without_up([0, 1, 2]))
    choice = learner.state.choice
    learner.learn(*with_up([5, 6, 7]))
    learner.correct(with_up([5])[0], 5)
    learner.forget(6)
    assert learner.state.choice == choice


def test_a_single_class_has_nothing_to_decide_by() -> None:
    learner = make()
    learner.learn(*without_up([0]))
    assert (learner.state.choice.group, learner.state.choice.images, learner.symmetry) == (None, 0, None)
    learner.learn(*without_up([1, 2]))
    assert learner.symmetry is None


def test_a_learner_whose_training_fails_has_decided_nothing() -> None:
    def interrupt(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if stage == "aligning" or done == total:
            raise KeyboardInterrupt

    learner = make()
    with pytest.raises(KeyboardInterrupt):
        learner.learn(*without_up([0, 1, 2]), progress=interrupt)
    assert learner.undecided
    learner.learn(*with_up([0, 1, 2]))
    assert learner.state.choice.group is None


def test_begin_alone_is_refused_until_the_group_is_known() -> None:
    learner = make()
    data = as_experience(*without_up([0, 1, 2]), learner.preprocessing)
    with pytest.raises(InputError, match=r"start_training"):
        learner.begin(data)
    learner.complete(learner.start_training(data))
    assert learner.state.choice.group == "D4"
    learner.begin(data)


def test_a_file_keeps_the_choice(tmp_path: Path) -> None:
    learner = make()
    learner.learn(*without_up([0, 1, 2]))
    learner.save(tmp_path / "model")
    loaded = continual.load(tmp_path / "model", FROZEN)
    assert loaded.state.choice == learner.state.choice
    assert loaded.settings.group == "auto"
    images = coloured_squares(range(3), 2, seed=1)[0]
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)
    assert contents.read(tmp_path / "model").describe()["choice"]["group"] == "D4"


@pytest.mark.parametrize("values", [{"group": "C99"}, {"saved": "much"}, {"plain": 2.0}, {"images": -1}, {"more": 1}])
def test_a_file_with_another_choice_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    learner = make()
    learner.learn(*without_up([0, 1, 2]))
    learner.save(tmp_path / "model")

    metadata = files.read_header(tmp_path / "model").metadata
    header = json.loads(metadata["equimos"])
    header["state"]["choice"] |= values
    files.with_header(tmp_path / "model", tmp_path / "other", {**metadata, "equimos": json.dumps(header)})
    with pytest.raises(ModelFileError, match=r"choice"):
        continual.load(tmp_path / "other", FROZEN)


def test_models_that_decided_otherwise_are_not_merged() -> None:
    one, other, third = make(), make(), make()
    one.learn(*without_up([0, 1, 2]))
    other.learn(*with_up([0, 1, 2]))
    third.learn(*without_up([3, 4]))
    with pytest.raises(InputError, match=r"decided on the group none, not D4"):
        continual.merged([one, other])
    assert continual.merged([one, third]).symmetry is not None


def test_few_images_of_each_class_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("continual.learning.extractor.MOST_IMAGES", 9)
    learner = make()
    learner.learn(*without_up([0, 1, 2]))
    assert learner.state.choice.images == 9


def test_the_estimate_does_not_decide() -> None:
    learner = make(MOSLearner)
    data = as_experience(*without_up([0, 1, 2]), learner.preprocessing)
    assert estimate.seconds(learner, data, 4) > 0
    assert learner.undecided


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_it_keeps_every_law(law: Law) -> None:
    # A class of four images is one of 32 views, more than the scatter that ridge is asked to keep of it.
    kind = SimpleCILLearner if law is learning_and_forgetting_is_never_having_learned else RidgeLearner
    law(synthetic_case(kind, group="auto"))
