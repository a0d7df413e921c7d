"""Streams as a config asks for them: published splits, classes by name, domains, and any Avalanche strategy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from continual.avalanche.streams import benchmark, to_avalanche
from continual.backbones.loading import Backbone
from continual.datasets.collection import Images
from continual.datasets.config import DataConfig, StreamConfig, load_data
from continual.datasets.streams import Stream, make_stream
from continual.errors import InputError
from continual.methods import methods
from tests.support import dataset_fakes as fakes

Blobs = Callable[..., tuple[torch.Tensor, list[int]]]


def part(classes: int = 12, domains: int = 1) -> Images:
    """Two items of every class in every domain; an item's name says both."""
    rows = [(f"c{c:02}", "dcba"[d], i) for d in range(domains) for c in range(classes) for i in range(2)]
    return Images([f"{d}/{c}/{i}" for c, d, i in rows], [c for c, _, _ in rows], [d for _, d, _ in rows])


def stream(**options: Any) -> Stream:
    return make_stream("toy", part(), part(), StreamConfig(**options), 1993)


def sizes(made: Stream) -> list[int]:
    return [len(e.classes) for e in made.experiences]


def test_published_splits() -> None:
    assert sizes(stream(classes=3)) == [3, 3, 3, 3]
    assert sizes(stream(classes=3, base="half")) == [6, 3, 3]
    assert sizes(stream(classes=2, base=4)) == [4, 2, 2, 2, 2]
    assert sizes(stream(classes=2, base="half", max_classes=8)) == [4, 2, 2]
    assert sizes(stream(classes=[5, 7])) == [5, 7]
    assert stream(classes=3, base="half").class_order == stream(classes=3).class_order


def test_orders() -> None:
    names = [f"c{c:02}" for c in range(12)]
    assert stream(classes=3, order="sorted").class_order == tuple(names)
    assert stream(classes=3, order=names[::-1]).class_order == tuple(names[::-1])
    # numpy.random.RandomState(1993).permutation(12)
    assert stream(classes=3).class_order[:4] == tuple(names[i] for i in torch_free_permutation(12)[:4])


def torch_free_permutation(count: int) -> list[int]:
    """The published order: numpy's old global generator, seeded."""
    import numpy as np

    state = np.random.get_state()
    np.random.seed(1993)
    order: list[int] = np.random.permutation(count).tolist()
    np.random.set_state(state)
    return order


def test_classes_by_name_leave_the_others_out() -> None:
    made = stream(classes=[["c03", "c01"], ["c11"]])
    assert [e.classes for e in made.experiences] == [("c03", "c01"), ("c11",)]
    assert made.experiences[1].train_labels == ["c11", "c11"]
    with pytest.raises(InputError, match="no class 'c3': did you mean"):
        stream(classes=[["c3"]])
    with pytest.raises(InputError, match="names a class twice"):
        stream(classes=[["c01"], ["c01"]])


def test_only_some_classes_in_the_order_of_the_seed() -> None:
    names = [f"c{c:02}" for c in (11, 3, 1, 7)]
    made = stream(classes=2, only=names)
    assert made.class_order == tuple(sorted(names)[i] for i in torch_free_permutation(4))
    assert len(made.experiences[0].train_labels) == 4
    assert stream(by="domains", only=names).class_order == tuple(sorted(names))
    with pytest.raises(InputError, match="no class 'c3': did you mean"):
        stream(classes=1, only=["c3"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give classes"),
        ({"by": "domains", "classes": 3}, "leave classes, base, max_classes out"),
        ({"classes": [3, 9], "base": 2}, "base goes with one number"),
        ({"classes": [["a"]], "order": "sorted"}, "leave order, only and max_classes out"),
        ({"classes": 3, "order": "random"}, "order"),
        ({"classes": 3, "base": "third"}, "base"),
    ],
)
def test_keys_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        StreamConfig(**options)


@pytest.mark.parametrize(
    "options", [{"classes": 4, "base": "half"}, {"classes": 3, "base": 13}, {"classes": 0, "base": 6}]
)
def test_a_base_that_does_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="12 classes cannot be split into"):
        stream(**options)


# Domains


def domain_stream(train: Images | None = None, test: Images | None = None, **options: Any) -> Stream:
    wanted = StreamConfig(by="domains", **options)
    return make_stream("toy", train or part(3, 4), test or part(3, 4), wanted, 1993)


def test_every_experience_is_a_domain_with_the_same_classes() -> None:
    made = domain_stream(order="sorted")
    assert [e.domain for e in made.experiences] == ["a", "b", "c", "d"]
    assert made.class_order == ("c00", "c01", "c02")
    for e in made.experiences:
        assert e.classes == made.class_order
        assert len(e.train_images) == len(e.test_images) == 6
        assert all(
            image.startswith(f"{e.domain}/{label}") for image, label in zip(e.train_images, e.train_labels, strict=True)
        )
    assert [e.domain for e in domain_stream().experiences] == ["abcd"[i] for i in torch_free_permutation(4)]
    assert [e.domain for e in domain_stream(order=["c", "a", "d", "b"]).experiences] == ["c", "a", "d", "b"]
    assert [len(e.train_images) for e in domain_stream(per_class=1).experiences] == [3] * 4


def test_domains_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="domain_order differs in 'd'"):
        domain_stream(order=["c", "a", "b"])
    with pytest.raises(InputError, match="the images have no domains: use a manifest"):
        domain_stream(part(3)._replace(domains=None))
    with pytest.raises(InputError, match="training and test images; not so: 'a'"):
        domain_stream(test=part(3, 3))
    late = part(3, 4)
    late = late._replace(
        labels=[f"{x}{d}" if d == "d" else x for x, d in zip(late.labels, late.domains or [], strict=True)]
    )
    with pytest.raises(InputError, match="domain 'd' tests 'c00d', 'c01d', 'c02d' before"):
        domain_stream(test=late, order="sorted")


def test_a_domain_may_bring_new_classes() -> None:
    more = part(3, 4)
    more = more._replace(
        labels=[f"{x}{d}" if d == "d" else x for x, d in zip(more.labels, more.domains or [], strict=True)]
    )
    made = domain_stream(more, more, order="sorted")
    assert made.class_order == ("c00", "c01", "c02", "c00d", "c01d", "c02d")


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_learns_domains(name: str, backbone: Backbone, blobs: Blobs) -> None:
    """A class met again is learned from, not refused, and the second domain's images are answered."""
    dark, labels = blobs([0, 1, 2], 6)
    images, truth = torch.cat([dark, 255 - dark]), [*labels, *labels]
    domains = ["dark"] * len(labels) + ["light"] * len(labels)
    part = Images(images, truth, domains)
    made = make_stream("blobs", part, part, StreamConfig(by="domains", order=["dark", "light"]), 0)
    small = {"epochs": 2, "batch_size": 6, "alignment_epochs": 1, "projection": 64, "bottleneck": 4}
    fields = methods()[name].settings_type.model_fields
    learner = methods()[name](backbone, **{key: value for key, value in small.items() if key in fields})
    for experience in made.experiences:
        learner.learn(experience.train_images, experience.train_labels)
    assert learner.classes == (0, 1, 2)
    assert learner.state.experiences == 1
    assert learner.state.updates == 2
    assert len(learner.predict(made.experiences[1].test_images).labels) == len(labels)


# Avalanche


def quiet() -> Any:
    """Avalanche's accuracies, without its printing."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin

    class Quiet(BaseLogger):
        pass

    return EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[Quiet()])


def naive(bench: Any, classes: int, side: int = 8) -> dict[str, float]:
    """Train and evaluate Avalanche's own Naive strategy."""
    from avalanche.training import Naive

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * side * side, classes))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    strategy = Naive(model=model, optimizer=optimizer, train_mb_size=4, evaluator=quiet())
    for experience in bench.train_stream:
        strategy.train(experience)
    result: dict[str, float] = strategy.eval(bench.test_stream)
    return result


def test_a_stock_strategy_on_a_folder(tmp_path: Path) -> None:
    fakes.release(tmp_path, 4)
    bench = benchmark(tmp_path, 2, preprocessing=8)
    assert (
        bench.class_names
        == make_stream("x", *load_data(DataConfig(source=str(tmp_path))), StreamConfig(classes=2), 1993).class_order
    )
    assert [sorted(e.classes_in_this_experience) for e in bench.train_stream] == [[0, 1], [2, 3]]
    assert bench.train_stream[0].dataset[0][0].shape == (3, 8, 8)
    assert len([key for key in naive(bench, 4) if "Top1_Acc_Exp" in key]) == 2


def test_a_stock_strategy_on_domains_from_a_config(tmp_path: Path) -> None:
    for domain in ("sun", "rain", "snow"):
        fakes.flat(tmp_path / "photos" / domain, 2)
    (tmp_path / "c.toml").write_text(
        'title = "weather"\n[data]\nsource = "./photos"\ndomains = true\n[stream]\nby = "domains"\norder = "sorted"\n'
        '[backbone]\nname = "vit_tiny_patch16_224"\n[methods.simple_cil]\n'
    )
    bench = benchmark(tmp_path / "c.toml", preprocessing=8)
    assert len(bench.train_stream) == len(bench.test_stream) == 3
    assert all(sorted(e.classes_in_this_experience) == [0, 1] for e in bench.train_stream)
    assert [len(e.dataset) for e in bench.train_stream] == [4, 4, 4]
    # training images are augmented, test images are not
    assert not torch.equal(bench.train_stream[0].dataset[0][0], bench.train_stream[0].dataset[0][0])
    assert torch.equal(bench.test_stream[0].dataset[0][0], bench.test_stream[0].dataset[0][0])
    assert len([key for key in naive(bench, 2) if "Top1_Acc_Exp" in key]) == 3


def test_our_own_strategy_on_domains(backbone: Backbone, blobs: Blobs) -> None:
    from continual.avalanche.strategy import SimpleCIL

    dark, labels = blobs([0, 1], 4)
    part = Images(torch.cat([dark, 255 - dark]), [*labels, *labels], ["a"] * len(labels) + ["b"] * len(labels))
    made = make_stream("blobs", part, part, StreamConfig(by="domains", order="sorted"), 0)
    strategy = SimpleCIL(model=backbone, evaluator=quiet())
    bench = to_avalanche(made, backbone.preprocessing)
    for experience in bench.train_stream:
        strategy.train(experience)
    assert strategy.learner.state.updates == 2
    assert strategy.learner.classes == (0, 1)
