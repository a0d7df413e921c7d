"""Settings where people look for them, and learners and backbones that say what they are in one line."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest
import torch

import continual
from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning import learner as learner_module
from continual.methods import methods


@pytest.mark.parametrize("name", methods())
def test_help_and_signature_show_every_setting(name: str) -> None:
    kind = methods()[name]
    shown, text = inspect.signature(kind).parameters, pydoc.plain(pydoc.render_doc(kind))
    for setting, field in kind.settings_type.model_fields.items():
        assert shown[setting].default == field.get_default(call_default_factory=True)
        assert f"{setting} = " in text


def test_a_methods_own_settings_come_first() -> None:
    lines = continual.MOSLearner.__doc__.partition("Settings:\n")[2].splitlines()
    names = [line.split()[0] for line in lines]
    assert names.index("retrieval_rounds") < names.index("seed")
    assert [*inspect.signature(continual.MOSLearner).parameters][4:][: names.index("seed")] == names[
        : names.index("seed")
    ]


def test_settings_may_be_an_object(backbone: Backbone) -> None:
    settings = continual.MOSSettings(epochs=5, seed=7)
    assert continual.MOSLearner(backbone, settings).settings is settings
    with pytest.raises(InputError, match="takes settings by name, or as one MOSSettings, not both"):
        continual.MOSLearner(backbone, settings, epochs=3)
    with pytest.raises(InputError, match="as one MOSSettings"):
        continual.MOSLearner(backbone, continual.StrataSettings())  # type: ignore[arg-type]


def test_one_line_says_what_a_learner_and_a_backbone_are(backbone: Backbone, blobs: Any) -> None:
    learner = continual.StrataLearner(backbone)
    learner.learn(*blobs([0, 1], 2))
    assert repr(learner) == f"<StrataLearner: 2 classes in 1 experiences, {backbone!r}>"
    assert repr(backbone) == f"<Backbone vit_tiny_patch16_224: 2 x 32, 16 x 16 px, {backbone.sha256[:8]}>"


def test_every_learner_is_a_public_name() -> None:
    assert {kind.__name__ for kind in methods().values()} <= set(continual.__all__)
    assert continual.methods() == methods()


def test_a_second_learner_moves_and_validates_nothing(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = continual.SimpleCILLearner(backbone, device="meta")
    assert {p.device.type for p in backbone.frozen.parameters()} == {"cpu"}
    assert elsewhere.backbone.frozen is not backbone.frozen
    assert continual.SimpleCILLearner(backbone, device="meta").backbone is elsewhere.backbone
    here = continual.SimpleCILLearner(backbone, device=torch.device("cpu"))
    assert here.backbone is backbone
    monkeypatch.setattr(learner_module, "make", lambda *_, **__: pytest.fail("settings were validated again"))
    assert here.variant().settings is here.settings


def test_names_of_before_are_understood(backbone: Backbone, blobs: Any) -> None:
    with pytest.warns(DeprecationWarning, match="strength is now penalty"):
        assert continual.StrataLearner(backbone, strength=0.5).settings.penalty == 0.5
    with pytest.warns(DeprecationWarning, match="turned_training is now transformed_training"):
        assert not continual.StrataLearner(backbone, turned_training=False).settings.transformed_training
    learner = continual.SimpleCILLearner(backbone)
    learner.learn(*blobs([0, 1], 2))
    with pytest.warns(DeprecationWarning, match="call score_batch"):
        assert learner.scores(torch.zeros(1, 3, 16, 16)).values.shape == (1, 2)
    with pytest.warns(DeprecationWarning, match="scores is now called _scores"):

        class Old(continual.SimpleCILLearner):
            """A method of before."""

            method = "old"

            def scores(self, images, cache=None):  # type: ignore[no-untyped-def]
                return super()._scores(images, cache)

    old = Old(backbone)
    old.learn(*blobs([0, 1], 2))
    assert torch.equal(old.predict(blobs([0], 2)[0]).scores, learner.predict(blobs([0], 2)[0]).scores)
