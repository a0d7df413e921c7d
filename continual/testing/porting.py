"""The laws of porting: a learner moves to another backbone, or says why it cannot."""

import copy
from dataclasses import replace

import torch

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.testing.assertions import assert_valid, expect, refused, survives_a_file, unchanged
from continual.testing.cases import Case


def _updated(backbone: Backbone) -> Backbone:
    """Return a backbone with weights that have moved a little."""
    frozen, draw = copy.deepcopy(backbone.frozen), torch.Generator().manual_seed(0)
    for parameter in frozen.network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw).to(parameter)
    return replace(backbone, frozen=frozen, sha256="")


def porting_moves_what_is_remembered(case: Case) -> None:
    """The same backbone changes no bit; a port that fails nothing at all; another one leaves a learner that goes on.

    A method that cannot be ported says so, and changes nothing.
    """
    learner, backbone = case.learned.variant(), case.learned.backbone
    updated = _updated(backbone)
    images = torch.cat([images for images, _ in case.experiences])
    if learner.unportable:
        with unchanged(learner, case.images), refused(InputError, "a port"):
            learner.port(updated, images)
        return
    with unchanged(learner, case.images):
        expect(learner.port(replace(backbone), images).same, "a port to the same backbone did something")
        with refused(InputError, "a port with few images"):
            learner.port(updated, images[:3])
        with refused(InputError, "a port before learning"):
            case.make().port(updated, images)
    state, memory = learner.state, sum(learner.memory().values())
    again = learner.variant()
    report, _ = learner.port(updated, images), again.port(updated, images)
    expect(all(share <= 1 for share in report.explained), f"explained is {report.explained}")
    expect(learner.backbone is updated, "the learner has another backbone than it was ported to")
    expect(learner.classes == state.classes, f"classes went from {state.classes} to {learner.classes}")
    expect(learner.state.class_experience == state.class_experience, "a class changed its experience")
    expect(sum(learner.memory().values()) <= memory + 8, "a port takes memory")
    expect(
        torch.equal(learner.predict(case.images).scores, again.predict(case.images).scores), "ports of the same differ"
    )
    assert_valid(learner, case.images)
    survives_a_file(learner, case.images)
    learner.learn(*case.experiences[2])
    assert_valid(learner, case.images)
    learner.forget(learner.classes[0])
    assert_valid(learner, case.images)
