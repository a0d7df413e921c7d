"""The laws of answers: an image has one, however it is asked for, and with a group its views all have the same."""

from typing import Any

import torch
from torch import Tensor

from continual.symmetry.views import group_named, transformed
from continual.testing.assertions import assert_close, assert_same, expect, rows
from continual.testing.cases import Case, Learner, reloaded

#: The symmetries that are tried: none, one that averages features, one that averages scores.
SYMMETRIES: tuple[dict[str, Any], ...] = (
    {},
    {"group": "C4", "symmetry": "frame"},
    {"group": "C4", "symmetry": "score_averaging"},
)


def one_door_to_every_answer(case: Case) -> None:
    """`predict` on images as they are, and the doors for prepared ones, give the same answers to the bit.

    With and without a symmetry. An image alone is answered as in a batch, with scores within 1e-5.
    """
    for settings in SYMMETRIES:
        learner = case.after(case.experiences[:2], **settings) if settings else case.learned
        learner = learner.variant(eval_batch_size=len(case.images))
        view, where = learner.preprocessing.evaluation(), f" under {settings}" if settings else ""
        prepared = torch.stack([view(image) for image in case.images])
        expected = learner.predict(case.images)
        scored, answered = learner.score_batch(prepared), learner.answer(prepared.to(learner.device)).cpu()
        for door, found in {
            "predict on prepared images": learner.predict(prepared),
            "score_batch": scored.prediction(learner.classes, None),
            "answer": answered.prediction(learner.classes, None),
        }.items():
            assert_same(expected, found, f"{door} differs from predict{where}")
        for row, image in enumerate(prepared[:4]):
            alone = learner.score_batch(image[None]).prediction(learner.classes, None)
            assert_close(rows(expected, torch.tensor([row])), alone)


def transformed_images_get_the_same_answers(case: Case) -> None:
    """With `group="D4"`, every view of an image has the same scores to the bit: in any batch, and after loading."""
    learner, group = case.after(case.experiences[:2], group="D4"), group_named("D4")
    view = learner.preprocessing.evaluation()
    images = torch.stack([view(image) for image in case.images[:6]])
    expected = learner.predict(images).scores
    loaded = reloaded(learner)
    for element, name in enumerate(group.names):
        views = torch.stack([transformed(group, element, image) for image in images])
        for who, asked in (("the learner", learner), ("the loaded learner", loaded)):
            expect(torch.equal(asked.predict(views).scores, expected), f"{who} answers otherwise after {name}")
        alone = torch.cat([learner.predict(view[None]).scores for view in views])
        expect(torch.allclose(alone, expected, atol=1e-5), f"an image alone is answered otherwise after {name}")


def the_likeliest_class_is_the_answer(case: Case) -> None:
    """What decides and what is called a probability are one thing: in a batch and alone, with and without a symmetry.

    The largest of the probabilities, or of the scores where a method has no others, is the answer's, and no other is as
    large; also from a file, and once a class was forgotten.
    """
    for settings in SYMMETRIES:
        learner = case.after(case.experiences[:2], **settings) if settings else case.learned.variant()
        where = f" under {settings}" if settings else ""
        _answers_are_likeliest(learner, case.images, where)
        for row in range(3):
            _answers_are_likeliest(learner, case.images[row : row + 1], f" for an image alone{where}")
    _answers_are_likeliest(reloaded(case.learned), case.images, " after loading")
    forgetful = case.learned.variant()
    forgetful.forget(forgetful.classes[0])
    _answers_are_likeliest(forgetful, case.images, " after forgetting")


def _answers_are_likeliest(learner: Learner, images: Tensor, where: str) -> None:
    found = learner.predict(images)
    answers = torch.tensor([found.classes.index(label) for label in found.labels])
    for name, values in (("probabilities", found.probabilities), ("scores", found.scores)):
        if values is not None:
            expect(torch.equal(values.argmax(-1), answers), f"the largest of the {name} is not the answer's{where}")
    if found.probabilities is not None:
        best = found.probabilities.topk(min(2, len(found.classes)), dim=-1).values
        expect(best.shape[1] == 1 or bool((best[:, 0] > best[:, -1]).all()), f"two classes are as likely{where}")
