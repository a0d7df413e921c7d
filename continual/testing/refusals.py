"""The laws of failure: what goes wrong gets a clear error and leaves the learner as it was."""

import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from continual.data.inputs import as_experience
from continual.errors import EquimosError, InputError, LearningError
from continual.learning import model_file
from continual.learning.training import GradientTraining
from continual.testing.assertions import assert_valid, expect, refused, unchanged
from continual.testing.cases import Case


def failure_changes_nothing(case: Case) -> None:
    """A diverging loss, an interrupt or an unreadable image leaves the learner with the same bits."""
    images, labels = case.experiences[2]

    def interrupt(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    learner = case.learned.variant()
    with unchanged(learner, case.images), refused(KeyboardInterrupt, "an interrupt"):
        learner.learn(images, labels, progress=interrupt)
    with unchanged(learner, case.images), tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken.png"
        broken.write_bytes(b"no image")
        with refused(InputError, "an unreadable image"):
            learner.learn([*images, broken], [*labels, labels[0]])
    training = case.make().start_training(as_experience(images, labels, learner.preprocessing))
    if not isinstance(training, GradientTraining) or not training.epochs:
        return
    # Found by the loss, and by what comes out of the only step.
    for poison in ({"lr": 1e30}, {"lr": 1e37, "epochs": 1, "batch_size": 10_000}):
        poisoned, fresh = case.learned.variant(**poison), case.make(**poison)
        with refused(LearningError, f"training with {poison}"):
            fresh.learn(images, labels)
        expect(fresh.classes == (), f"a first training that failed left {fresh.classes}")
        if poisoned.begin(as_experience(images, labels, poisoned.preprocessing)).epochs == 0:
            continue  # it trains on its first experience only
        with unchanged(poisoned, case.images), refused(LearningError, f"training with {poison}"):
            poisoned.learn(images, labels)


def bad_input_is_refused(case: Case) -> None:
    """Images and labels that cannot be used raise InputError and change nothing."""
    learner = case.learned.variant()
    images, labels = case.experiences[2]
    size = learner.preprocessing.size
    good = torch.linspace(-1, 1, len(labels) * 3 * size[0] * size[1]).view(len(labels), 3, *size)
    with refused(InputError, "predicting before learning"):
        case.make().predict(images)
    bad_images: dict[str, Any] = {
        "no images": images[:0],
        "one image": images[0],
        "NaN": good.clone().index_fill_(0, torch.tensor([len(good) - 1]), torch.nan),
        "infinite values": good + torch.inf,
        "a wrong size": torch.cat([good, good[:, :, :1]], 2),
        "one channel of floats": good[:, :1],
        "integers that are not bytes": images.long(),
        "no sequence": 3,
        "things that are not images": [None] * len(labels),
        "missing files": ["no/such/file.png"] * len(labels),
    }
    bad_labels: dict[str, Any] = {
        "too few": labels[:-1],
        "fractions": [0.5] * len(labels),
        "truth values": [True] * len(labels),
        "nothing": [None] * len(labels),
        "two kinds": [str(labels[0]), *[1] * (len(labels) - 1)],
    }
    with unchanged(learner, case.images):
        for what, images_given in bad_images.items():
            names = labels[: len(images_given)] if what == "no images" else labels
            for call in (learner.learn, learner.evaluate):
                with refused(InputError, what):
                    call(images_given, names)
            with refused(InputError, what):
                learner.predict(images_given)
        for what, labels_given in bad_labels.items():
            with refused(InputError, f"labels that are {what}"):
                learner.learn(images, labels_given)
        with refused(InputError, "a class never learned"):
            learner.evaluate(images, labels)
        with refused(EquimosError, "an unknown setting"):
            learner.variant(no_such_setting=1)


def tensors_of_other_shapes_are_refused(case: Case) -> None:
    """A file in which any tensor has another shape is refused, or predicts, learns and predicts all the same."""
    learner, problems = case.learned, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        learner.save(path)
        tensors, values = model_file.read(path)
        # of each layer's and experience's tensor the first stands for all
        for name in {re.sub(r"\d+", "0", name): name for name in reversed(tensors)}.values():
            own = tensors[name]
            for other in (own[None], own.reshape(-1), torch.stack([own, own]), own.reshape(-1)[:0]):
                model_file.write(path, {**tensors, name: other}, values)
                try:
                    found = type(learner).load(path, learner.backbone, device=learner.device)
                    assert_valid(found, case.images[:1])
                    found.learn(*case.experiences[2])
                    assert_valid(found, case.images[:1])
                except EquimosError:
                    continue
                except Exception as error:
                    problems.append(f"{name} of shape {tuple(other.shape)}, not {tuple(own.shape)}: {error!r}")
    expect(not problems, "\n".join(problems))
