"""The laws of merging: models of two sites become one, or the method says why they cannot."""

import torch

from continual.errors import InputError
from continual.learning.merged import merged
from continual.testing.assertions import (
    assert_close,
    assert_same,
    assert_valid,
    expect,
    refused,
    survives_a_file,
    unchanged,
)
from continual.testing.cases import Case, Learner


def merging_joins_what_is_remembered(case: Case) -> None:
    """Two models that share a class become one that knows all classes, in any order, and goes on like any other.

    Where features differ, images are asked for; those given stay as they are. A method that cannot be merged says so,
    and so do adapters of which later ones share a part of the first: such models begin from one.
    """
    (images, labels), (new, names), (more, others) = case.experiences[:3]
    here = case.after([(images, labels)])
    elsewhere = [(torch.cat([new, images[:2]]), [*names, *labels[:2]]), (more, others)]
    there = case.after(elsewhere)
    pool = torch.cat([images for images, _ in case.experiences])
    apart = here.common_weights() is not None or here.keeps_every_adapter
    alone = apart and not here.unmergeable and _begin_from_one(here, there, pool)
    if alone:
        there = here.variant()
        for part in elsewhere:
            there.learn(*part)
    with unchanged(here, case.images), unchanged(there, case.images):
        if here.unmergeable:
            with refused(InputError, "a merge"):
                merged([here, there], pool)
            return
        with refused(InputError, "a merge of one"):
            merged([here], pool)
        with refused(InputError, "a merge with a model that has learned nothing"):
            merged([here, case.make()], pool)
        if apart and not alone:
            with refused(InputError, "a merge of different features without images"):
                merged([here, there])
            with refused(InputError, "a merge by few images"):
                merged([here, there], pool[:3])
        joint, reverse = (merged(order, pool if apart else None) for order in ([here, there], [there, here]))
    expect({*joint.classes} == {*labels, *names, *others}, f"merged, the classes are {joint.classes}")
    expect(len(joint.classes) == len({*joint.classes}), f"a class is known twice: {joint.classes}")
    order = [reverse.classes.index(label) for label in joint.classes]
    mine, its = joint.predict(case.images), reverse.predict(case.images)
    if apart:
        assert_same(mine, its, "the order of the models matters")
    else:
        worst = float((mine.scores - its.scores[:, order]).abs().max())
        expect(worst <= 1e-5, f"in another order, scores differ by {worst:.2g}")
    assert_close(mine, merged([here, there], pool if apart else None).predict(case.images), 0.0)
    assert_valid(joint, case.images)
    survives_a_file(joint, case.images)
    joint.learn(*case.experiences[3])
    assert_valid(joint, case.images)
    joint.forget(joint.classes[0])
    assert_valid(joint, case.images)


def _begin_from_one(here: Learner, there: Learner, pool: torch.Tensor) -> bool:
    """Return whether such models are refused unless they begin from one."""
    try:
        merged([here, there], pool)
    except InputError as error:
        expect("from one file" in str(error), f"a merge is refused: {error}")
        return True
    return False
