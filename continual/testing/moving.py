"""The law of symmetry: with a group, an image's views all get the same answer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from continual.symmetry.views import group_named, transformed
from continual.testing.assertions import expect
from continual.testing.cases import Case


def turned_images_get_the_same_answers(case: Case) -> None:
    """With `group="D4"`, every view of an image has the same scores to the bit: in any batch, and after loading."""
    learner, group = case.after(case.experiences[:2], group="D4"), group_named("D4")
    view = learner.backbone.preprocessing.evaluation()
    images = torch.stack([view(image) for image in case.images[:6]])
    expected = learner.predict(images).scores
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder) / "model")
        loaded = type(learner).load(Path(folder) / "model", learner.backbone)
    for element, name in enumerate(group.names):
        views = torch.stack([transformed(group, element, image) for image in images])
        for who, asked in (("the learner", learner), ("the loaded learner", loaded)):
            expect(torch.equal(asked.predict(views).scores, expected), f"moved by {name}, {who} answers otherwise")
        alone = torch.cat([learner.predict(view[None]).scores for view in views])
        expect(torch.allclose(alone, expected, atol=1e-5), f"moved by {name}, an image alone is answered otherwise")
