"""The laws of edits: a class renamed, forgotten or corrected, and nothing else."""

from dataclasses import replace

import torch

from continual.data.inputs import Label
from continual.errors import InputError
from continual.testing.assertions import (
    assert_close,
    assert_same,
    assert_valid,
    expect,
    refused,
    survives_a_file,
    unchanged,
)
from continual.testing.cases import Case


def renaming_changes_a_name_alone(case: Case) -> None:
    """Answers are the same except for the name, and learning continues with the same bits, also from a file."""
    learner, plain = case.learned.variant(), case.learned.variant()
    old = learner.classes[1]
    new: Label = "another name" if isinstance(old, str) else 1_000_003
    before = plain.predict(case.images)
    learner.rename(old, new)
    names = {old: new}
    answers = learner.predict(case.images)
    expect(answers.labels == [names.get(label, label) for label in before.labels], "renaming changed an answer")
    expect(torch.equal(answers.scores, before.scores), "renaming changed a score")
    expect(learner.classes.index(new) == 1, "renaming moved a class")
    images, labels = case.experiences[2]
    learner.learn(images, labels)
    plain.learn(images, labels)
    expect(torch.equal(learner.predict(case.images).scores, plain.predict(case.images).scores), "it learned otherwise")
    survives_a_file(learner, case.images)
    learner, other = case.learned.variant(), case.learned.classes[0]
    with unchanged(learner, case.images):
        for wrong in (other, old, str(old) if isinstance(old, int) else 7):
            with refused(InputError, f"the new name {wrong!r}"):
                learner.rename(old, wrong)
        with refused(InputError, "renaming a class never learned"):
            learner.rename("no such class", new)


def forgetting_leaves_the_other_classes(case: Case) -> None:
    """A forgotten class is never answered, its memory is gone, the others keep their names, and answers where it lost.

    Whichever class it is, also the only one of its experience. It can be learned again, and the learner saved.
    A method that retrieves stacks may answer otherwise where the class had a part in the retrieval.
    """
    for index, label in enumerate(case.learned.classes):
        learner = case.learned.variant()
        before, size = learner.predict(case.images), sum(learner.memory().values())
        learner.forget(label)
        known = case.learned.classes
        expect(learner.classes == known[:index] + known[index + 1 :], f"without {label}: {learner.classes}")
        expect(len(learner.state.class_experience) == len(learner.classes), "a class has no experience")
        expect(sum(learner.memory().values()) < size, f"forgetting {label} freed no memory")
        assert_valid(learner, case.images)
        answers = learner.predict(case.images)
        if answers.stack is None:
            pairs = zip(before.labels, answers.labels, strict=True)
            moved = [(old, new) for old, new in pairs if old not in (label, new)]
            expect(not moved, f"forgetting {label} changed answers (was, is) {moved} that were not {label}")
        survives_a_file(learner, case.images)
        images, labels = case.experiences[2]
        learner.learn(images, labels)
        mine = [
            (x, y) for images, labels in case.experiences for x, y in zip(images, labels, strict=True) if y == label
        ]
        learner.learn(torch.stack([x for x, _ in mine]), [y for _, y in mine])
        expect(learner.classes[-1] == label, f"{label} was not learned again: {learner.classes}")
        assert_valid(learner, case.images)


def learning_and_forgetting_is_never_having_learned(case: Case) -> None:
    """A class that comes and goes leaves nothing, for methods whose features never change: scores within 1e-4.

    Regressions are asked with `exact_forget`, and answer so at once; without, they estimate a part of what is taken
    out, and eight answers in ten are the same once they learn again. What a method chose on the newest experience
    (a penalty of `ranpac`) is chosen again by then, by draws that go by the number of updates, so both have the same.
    """
    if not case.learned.fixed_features:
        return
    exact = {"exact_forget": 8} if "exact_forget" in case.learned.settings_type.model_fields else {}
    images, labels = case.experiences[2]
    passing = [i for i, label in enumerate(labels) if label == labels[0]]
    for settings in (exact, {}) if exact else (exact,):
        learner, never = (case.after(case.experiences[:2], **settings) for _ in range(2))
        for _ in range(5):
            learner.learn(images[passing], [labels[0]] * len(passing))
            learner.forget(labels[0])
        expect(learner.classes == never.classes, f"classes are {learner.classes}")
        never.state = replace(never.state, updates=learner.state.updates)
        for each in (learner, never):
            each.learn(*case.experiences[-1])
        found, expected = learner.predict(case.images), never.predict(case.images)
        if settings == exact:
            assert_close(found, expected, 1e-4)
        same = sum(a == b for a, b in zip(found.labels, expected.labels, strict=True))
        expect(same >= 0.8 * len(found.labels), f"{same} of {len(found.labels)} answers are the same")


def forgetting_is_refused_where_it_makes_no_sense(case: Case) -> None:
    """A class never learned, or the last one, cannot be forgotten."""
    learner = case.learned.variant()
    with unchanged(learner, case.images), refused(InputError, "forgetting a class never learned"):
        learner.forget("no such class")
    for label in learner.classes[1:]:
        learner.forget(label)
    with unchanged(learner, case.images), refused(InputError, "forgetting the last class"):
        learner.forget(learner.classes[0])


def correcting_trains_no_adapter(case: Case) -> None:
    """A correction moves head and memory of classes alone: no class, experience or byte more, every stack as it was.

    A method that cannot correct says so and changes nothing.
    """
    learner, (images, _) = case.learned.variant(), case.experiences[0]
    state, label = learner.state, learner.classes[-1]
    if not learner.correctable:
        with unchanged(learner, case.images), refused(InputError, "a correction"):
            learner.correct(images[:2], label)
        return
    tensors, size = learner.export()[0], learner.memory()
    learner.correct(images[:2], label)
    expect(learner.classes == state.classes, f"classes went from {state.classes} to {learner.classes}")
    expect(learner.state.experiences == state.experiences, "a correction counted as an experience")
    expect(learner.memory() == size, f"memory went from {size} to {learner.memory()}")
    now = learner.export()[0]
    moved = [name for name in tensors if not torch.equal(tensors[name], now[name])]
    trained = [name for name in moved if name.split("/")[0] in ("bank", "stack", "backbone", "pool")]
    expect(bool(moved), "the correction changed nothing")
    expect(not trained, f"the correction trained {trained}")
    assert_valid(learner, case.images)
    survives_a_file(learner, case.images)
    again = case.learned.variant()
    again.correct(images[:2], label)
    assert_same(learner.predict(case.images), again.predict(case.images), "the same correction gave another result")
    with unchanged(learner, case.images):
        for what, given, name in (
            ("a class never learned", images[:2], "no such class"),
            ("no images", images[:0], label),
            ("one image", images[0], label),
            ("things that are not images", [None], label),
        ):
            with refused(InputError, f"a correction with {what}"):
                learner.correct(given, name)
