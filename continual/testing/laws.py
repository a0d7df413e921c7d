"""The laws that every incremental learner keeps; each takes a `Case` and raises AssertionError."""

import random
import tempfile
from typing import Any

import numpy as np
import torch

from continual.backbones.loading import fingerprint
from continual.data.inputs import as_experience
from continual.errors import InputError
from continual.learning.answers import Prediction
from continual.learning.feature_cache import FeatureCache
from continual.learning.feature_store import FeatureStore
from continual.learning.loop import run
from continual.learning.training import GradientTraining
from continual.testing.assertions import (
    assert_close,
    assert_same,
    assert_valid,
    expect,
    leaves,
    random_state,
    refused,
    rows,
    unchanged,
)
from continual.testing.cases import Case, reloaded

# Purity ------------------------------------------------------------------------------------------------


def predicting_twice_gives_the_same_bits(case: Case) -> None:
    """Inference writes nothing: neither answers nor what is remembered change."""
    with unchanged(case.learned, case.images):
        case.learned.predict(case.images)


def batch_size_does_not_matter(case: Case) -> None:
    """One image at a time, 7, or 128 give the same answers, and scores within 1e-5."""
    one, seven, many = (case.learned.variant(eval_batch_size=n).predict(case.images) for n in (1, 7, 128))
    assert_close(one, many)
    assert_close(seven, many)


def order_of_images_does_not_matter(case: Case) -> None:
    """An image gets the same answer wherever it stands."""
    order = torch.randperm(len(case.images), generator=torch.Generator().manual_seed(0))
    straight, shuffled = case.learned.predict(case.images), case.learned.predict(case.images[order])
    assert_close(shuffled, rows(straight, order))


def random_state_is_left_alone(case: Case) -> None:
    """Learning and predicting neither read nor change global random numbers."""
    before = random_state()
    learner = case.after(case.experiences[:2])
    learner.predict(case.images)
    expect(random_state() == before, "learning or predicting moved the global random state")
    torch.rand(3)
    random.random()
    np.random.rand(3)
    assert_same(case.learned.predict(case.images), learner.predict(case.images), "the global random state matters")


def a_cache_changes_no_answer(case: Case) -> None:
    """Answers with remembered features are those without, after every experience."""
    learner, cache = case.make(), FeatureCache()
    for images, labels in case.experiences:
        learner.learn(images, labels)
        assert_close(learner.predict(case.images), learner.predict(case.images, cache=cache))


def a_store_changes_no_answer(case: Case) -> None:
    """Learning and answering with features from the disk give the same bits, those of the run that computed them."""
    with tempfile.TemporaryDirectory() as folder:
        answers = []
        for store in (None, FeatureStore(folder), FeatureStore(folder)):
            learner = case.make()
            learner.store = store
            for images, labels in case.experiences[:2]:
                learner.learn(images, labels)
                answers.append(learner.predict(case.images))
            if store is not None:
                store.flush()
    for plain, first, again in zip(answers[:2], answers[2:4], answers[4:], strict=True):
        assert_same(plain, first, "keeping features changed a result")
        assert_same(plain, again, "kept features changed a result")


# Training ----------------------------------------------------------------------------------------------


def backbone_is_frozen(case: Case) -> None:
    """The backbone's bits stay, none of its parameters takes or gets a gradient."""
    learner = case.make()
    network = learner.backbone.frozen.network
    before = fingerprint(network)

    def no_gradients(*_: Any) -> None:
        touched = [n for n, p in network.named_parameters() if p.requires_grad or p.grad is not None]
        expect(not touched, f"backbone parameters take gradients: {touched[:3]}")

    for images, labels in case.experiences[:2]:
        learner.learn(images, labels, progress=no_gradients)
    learner.predict(case.images)
    no_gradients()
    expect(not any(module.training for module in network.modules()), "the backbone was left in training mode")
    expect(fingerprint(network) == before, "the backbone's weights changed")


def gradients_reach_only_what_is_trained(case: Case) -> None:
    """The loss's graph ends in the parameters handed to the optimizer, and nowhere else."""
    learner = case.learned
    data = as_experience(*case.experiences[2], learner.preprocessing)
    training = learner.begin(data)
    if not isinstance(training, GradientTraining):
        return
    training.start_epoch(0)
    images = torch.stack([data.training[i][0] for i in range(len(data.labels))]).to(learner.device)
    loss = training.loss(training.forward(images), data.labels)
    trained = {id(p) for group in training.parameter_groups() for p in group["params"]}
    reached = leaves(loss)
    expect(bool(reached), "the loss depends on no parameter")
    expect({id(leaf) for leaf in reached} <= trained, "the loss's graph holds parameters that are not trained")


def finishing_early_changes_nothing(case: Case) -> None:
    """`Training.finish` may be called in the middle: training continues as if it had not been.

    What it returned stays as it was; Avalanche evaluates between epochs in this way.
    """
    plain, watched = case.learned.variant(), case.learned.variant()
    plain.learn(*case.experiences[2])
    training = watched.begin(as_experience(*case.experiences[2], watched.preprocessing))
    early = watched.variant()
    answers: list[Prediction] = []

    def finish_early(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if not answers:
            early.state = training.finish()
            answers.append(early.predict(case.images))

    run(training, finish_early)
    watched.complete(training)
    assert_same(plain.predict(case.images), watched.predict(case.images), "finishing early changed the training")
    if answers:
        assert_same(answers[0], early.predict(case.images), "training went on in what had been finished")


def same_seed_gives_the_same_bits(case: Case) -> None:
    """A seed decides everything; another seed gives another training."""
    again = case.after(case.experiences[:2])
    assert_same(case.learned.predict(case.images), again.predict(case.images), "the same seed gave another result")
    if isinstance(again.begin(as_experience(*case.experiences[2], again.preprocessing)), GradientTraining):
        other = case.after(case.experiences[:2], seed=again.settings.seed + 1).predict(case.images)
        expect(not torch.equal(other.scores, again.predict(case.images).scores), "the seed changes nothing")


def loader_workers_do_not_matter(case: Case) -> None:
    """Images loaded in another process, augmented or not, are the same images."""
    learner = case.after(case.experiences[:2], workers=1)
    answers = learner.predict(case.images, workers=1)
    assert_same(case.learned.predict(case.images), answers, "loader workers changed the result")


def bfloat16_works(case: Case) -> None:
    """Training and predicting under autocast give valid scores."""
    assert_valid(case.after(case.experiences[:2], precision="bfloat16"), case.images)


# Files and memory --------------------------------------------------------------------------------------


def loading_restores_everything(case: Case) -> None:
    """A file gives the same answers and learns on with the same bits, backbone inside or not.

    A method that keeps images (`exemplar_free = False`) may refuse to learn on from a file.
    """
    learner, more = case.learned.variant(), case.experiences[2]
    expected = learner.predict(case.images)
    learner.learn(*more)
    for embed in (False, True):
        loaded = reloaded(case.learned, embed=embed)
        assert_same(expected, loaded.predict(case.images), "the loaded learner answers otherwise")
        expect(loaded.settings == learner.settings, "the loaded learner has other settings")
        try:
            loaded.learn(*more)
        except InputError:
            expect(not learner.exemplar_free, "an exemplar-free learner must go on learning from a file")
            continue
        assert_same(learner.predict(case.images), loaded.predict(case.images), "training went on otherwise")


def memory_grows_by_classes_and_experiences_alone(case: Case) -> None:
    """`memory()` grows by a fixed sum a class and one an experience, whatever the number of images.

    A method with `linear_memory = False` may grow otherwise, but images do not count there either.
    """
    learner = case.make()
    expect(learner.memory() == {}, f"a learner that knows nothing holds {learner.memory()}")
    known, size, growth = 0, 0, []
    for i, (images, labels) in enumerate(case.experiences):
        half = slice(None, None, 1 + i % 2)
        learner.learn(images[half], labels[half])
        now = sum(learner.memory().values())
        growth.append((len(learner.classes) - known, now - size))
        known, size = len(learner.classes), now
    # The first experience may also bring tensors of a fixed size; the later ones lie on one line.
    (a, first), *others = growth[1:]
    slopes = {(later - first) / (b - a) for b, later in others if b != a}
    alike = all(later == first for b, later in others if b == a)
    if learner.linear_memory:
        expect(alike and len(slopes) <= 1, f"memory grew by (classes, bytes) {growth}: not by a fixed sum a class")
    before = learner.memory()
    expect(before == case.after(case.experiences).memory(), "memory depends on the number of images")
    learner.learn(*case.experiences[0])
    expect(learner.memory() == before, f"memory grew from {before} to {learner.memory()} for a class seen again")


# Classes -----------------------------------------------------------------------------------------------


def classes_keep_their_names(case: Case) -> None:
    """Classes are answered by the names given, str or int, also after loading; the kinds do not mix."""
    for kind, other in ((str, int), (int, str)):
        named = [(images, [kind(label) for label in labels]) for images, labels in case.experiences]
        learner = case.after(named[:2])
        first = {kind(label) for _, labels in case.experiences[:2] for label in labels}
        for each in (learner, reloaded(learner)):
            answers = each.predict(case.images).labels
            expect(set(each.classes) == first, f"learned {first}, but the classes are {each.classes}")
            expect({type(label) for label in answers} == {kind}, f"answers are {answers[:3]}, not of type {kind}")
        with unchanged(learner, case.images), refused(InputError, "labels of another kind"):
            learner.learn(named[2][0], [other(label) for label in named[2][1]])


def small_and_unbalanced_experiences_work(case: Case) -> None:
    """An experience may bring one class, one image a class, or many images of one and one of another."""
    learner = case.make()
    (pair, labels), (single, name), (last, names) = case.experiences[:3]
    learner.learn(single[:1], name[:1])
    assert_valid(learner, case.images)
    one_each = [labels.index(label) for label in sorted(set(labels))]
    learner.learn(pair[one_each], [labels[i] for i in one_each])
    assert_valid(learner, case.images)
    few = [i for i, label in enumerate(names) if label == names[0] or i == len(names) - 1]
    learner.learn(last[few], [names[i] for i in few])
    assert_valid(learner, case.images)


def class_seen_again_stays_one_class(case: Case) -> None:
    """A class that returns, alone or beside new ones, keeps its name, index and experience."""
    learner = case.learned.variant()
    before = learner.state
    (images, labels), (new, names) = case.experiences[0], case.experiences[2]
    learner.learn(images[:3], labels[:3])
    expect(learner.classes == before.classes, f"classes went from {before.classes} to {learner.classes}")
    expect(learner.state.class_experience == before.class_experience, "a class changed its experience")
    expect(learner.state.experiences == before.experiences, "an experience without new classes was counted")
    learner.learn(torch.cat([images[:3], new]), [*labels[:3], *names])
    expect(learner.classes[: len(before.classes)] == before.classes, "a class changed its index")
    expect(len(set(learner.classes)) == len(learner.classes), f"a class is known twice: {learner.classes}")
    expect(learner.state.experiences == before.experiences + 1, "the experience was not counted")
    assert_valid(learner, case.images)
