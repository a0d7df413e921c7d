"""Our measures as Avalanche metrics, and our figures beside Avalanche's own, on the runs of stock strategies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark, ni_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation import metrics as m
from avalanche.training import Naive
from test_avalanche_evaluation import mos
from torch import nn
from torch.utils.data import TensorDataset

from continual.avalanche.metrics import FlipMetrics, calibration_metrics, flip_metrics, retrieval_metrics
from continual.avalanche.streams import to_avalanche
from continual.metrics import transfer
from continual.metrics.calibration import expected_calibration_error, reliability_table
from continual.metrics.flips import flips
from tests.support.avalanche_fixtures import Recorder, blob_stream, evaluator

STREAM = "{}_Stream/eval_phase/test_stream"


def points(count: int, seed: int) -> TensorDataset:
    """Four classes of points in a plane, the classes too near for all to be told apart."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    data = TensorDataset(centres[labels] + 0.5 * torch.randn(count, 2, generator=draw), labels)
    data.targets = labels.tolist()  # type: ignore[attr-defined]
    return data


@pytest.fixture
def classes() -> Any:
    """Two experiences of two classes, with different numbers of test images."""
    train, test = (as_classification_dataset(points(n, seed)) for n, seed in ((80, 0), (50, 1)))
    return nc_benchmark(train, test, n_experiences=2, task_labels=False, fixed_class_order=[0, 1, 2, 3])


def naive(*metrics: Any, plugins: Any = None, **options: Any) -> Naive:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(2, 4)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        train_mb_size=10,
        train_epochs=2,
        eval_mb_size=7,
        evaluator=evaluator(*metrics),
        plugins=plugins,
        **options,
    )


def evaluated(strategy: Any, stream: Any, record: Recorder) -> tuple[dict[str, float], list[Any], list[Any]]:
    """Evaluate; return the metrics, and of each experience the outputs and the labels."""
    record.outputs = []
    seen = strategy.eval(stream)
    outputs, labels, at = [], [], 0
    for experience in stream:
        batches = -(-len(experience.dataset) // strategy.eval_mb_size)
        part = record.outputs[at : at + batches]
        outputs.append(torch.cat([o for _, o, _ in part]))
        labels.append(torch.cat([y for *_, y in part]).numpy())
        at += batches
    return seen, outputs, labels


class Quietly(Recorder):
    """Records what was evaluated; a stock strategy has no learner to look at."""

    def _note(self, strategy: Any, hook: str) -> None:
        pass


def test_flips_of_a_stock_strategy(classes: Any) -> None:
    record = Quietly()
    strategy = naive(flip_metrics(), plugins=[record])
    strategy.train(classes.train_stream[0])
    seen, before, truth = evaluated(strategy, classes.test_stream, record)
    assert STREAM.format("NegativeFlipRate") not in seen  # there is no older model
    strategy.train(classes.train_stream[1])
    for _ in range(2):  # asked twice, the answer is the same
        seen, after, _ = evaluated(strategy, classes.test_stream, record)
        expected = flips(before[0].argmax(1), after[0].argmax(1), truth[0])
        assert 0 < expected.negative < 1
        assert seen[STREAM.format("NegativeFlipRate")] == expected.negative
        assert seen[STREAM.format("PositiveFlipRate")] == expected.positive
        assert seen[STREAM.format("Inconsistency")] == expected.inconsistency
        assert seen[STREAM.format("BackwardTrust")] == expected.backward_trust


def test_evaluation_in_the_middle_compares_with_the_finished_model_before(classes: Any) -> None:
    metric, record = FlipMetrics(), Quietly()
    strategy = naive([metric], plugins=[record], eval_every=1)
    for experience in classes.train_stream:
        strategy.train(experience, eval_streams=[classes.test_stream])
    # Avalanche evaluates before each experience and after each of its two epochs.
    sizes = [len(e.dataset) for e in classes.test_stream]
    evaluations = torch.cat([o for phase, o, _ in record.outputs if phase == "eval"]).split(sum(sizes))
    assert len(evaluations) == 6
    before, after = (evaluations[k][: sizes[0]].argmax(1) for k in (3, 5))
    truth = classes.test_stream[0].dataset.targets
    middle = strategy.evaluator.get_all_metrics()[STREAM.format("NegativeFlipRate")][1]
    assert middle[-1] == flips(before, after, [*truth]).negative
    assert len(middle) == 2  # one an epoch of the second experience
    metric.reset()
    assert metric.result() == {}


def test_images_in_another_order_are_refused(classes: Any) -> None:
    strategy = naive(flip_metrics())
    strategy.train(classes.train_stream[0])
    strategy.eval(classes.test_stream)
    strategy.train(classes.train_stream[1])
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="without shuffling"):
        strategy.eval(classes.test_stream, shuffle=True)


def test_calibration_error_of_a_stock_strategy(classes: Any) -> None:
    record = Quietly()
    strategy = naive(calibration_metrics(experience=True, bins=5), plugins=[record])
    strategy.train(classes.train_stream[0])
    for _ in range(2):
        seen, outputs, truth = evaluated(strategy, classes.test_stream, record)
        tables = []
        for number, (output, labels) in enumerate(zip(outputs, truth, strict=True)):
            confidence, answers = output.softmax(1).max(1)
            tables.append(reliability_table(confidence, answers.numpy() == labels, 5))
            name = f"CalibrationError_Exp/eval_phase/test_stream/Task000/Exp{number:03}"
            assert seen[name] == pytest.approx(expected_calibration_error(tables[-1]))
        expected = expected_calibration_error(sum(tables))
        assert seen["CalibrationError_Stream/eval_phase/test_stream/Task000"] == pytest.approx(expected)


def test_retrieval_is_that_of_the_learner(backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    benchmark = to_avalanche(stream, backbone.preprocessing)
    ours = mos(backbone, retrieval_metrics())
    for experience in benchmark.train_stream[:2]:
        ours.train(experience)
    seen = ours.eval(benchmark.test_stream)  # the third experience is not known yet
    found = [ours.learner.predict(e.test_images) for e in stream.experiences[:2]]
    for name, column in (("RightStackAtFirst", "first_stack"), ("RightStack", "stack")):
        right = [(getattr(p, column) == k).float() for k, p in enumerate(found)]
        assert seen[STREAM.format(name)] == pytest.approx(float(torch.cat(right).mean()))
    changes = torch.cat([p.refinements.float() for p in found])
    assert seen[STREAM.format("Refinements")] == pytest.approx(float(changes.mean()))


def test_a_strategy_without_stacks_has_no_retrieval(classes: Any) -> None:
    strategy = naive(retrieval_metrics())
    strategy.train(classes.train_stream[0])
    assert not any("Stack" in name for name in strategy.eval(classes.test_stream))


@pytest.mark.parametrize("new", ["classes", "instances"])
def test_transfer_is_avalanches(classes: Any, new: str) -> None:
    """Accuracies, transfer and forgetting of one run, ours beside Avalanche's."""
    benchmark, tested = classes, classes.test_stream
    if new == "instances":  # a learner of all classes knows something of what it has not seen yet
        train, test = (as_classification_dataset(points(n, seed)) for n, seed in ((90, 2), (60, 3)))
        benchmark = ni_benchmark(train, test, n_experiences=3, task_labels=False, seed=0)
        tested = benchmark.train_stream
    others = m.bwt_metrics(stream=True), m.forward_transfer_metrics(stream=True), m.forgetting_metrics(stream=True)
    strategy = naive(*others, eval_every=0)
    matrix, final = [], {}
    for experience in benchmark.train_stream:  # evaluated before and after each
        final = strategy.train(experience, eval_streams=[tested])
        matrix.append(accuracies(final, tested))
    every = strategy.evaluator.get_all_metrics()
    untrained = accuracies({name: values[0] for name, (_, values) in every.items()}, tested)
    place, counts = f"eval_phase/{tested.name}_stream", [len(e.dataset) for e in tested]
    assert transfer.backward_transfer(matrix) == pytest.approx(final[f"StreamBWT/{place}"])
    since_learned = final[f"StreamForgetting/{place}"]
    assert -transfer.backward_transfer(matrix) == pytest.approx(since_learned)
    assert transfer.forgetting(matrix) >= since_learned - 1e-9
    assert transfer.forward_transfer(matrix, untrained) == pytest.approx(final[f"StreamForwardTransfer/{place}"])
    assert transfer.seen_accuracy(matrix, counts)[-1] == pytest.approx(final[f"Top1_Acc_Stream/{place}/Task000"])


def test_the_accuracy_matrix_is_avalanches(classes: Any) -> None:
    strategy = naive(m.accuracy_matrix_metrics())
    matrix, seen = [], {}
    for experience in classes.train_stream:
        strategy.train(experience)
        seen = strategy.eval(classes.test_stream)
        matrix.append(accuracies(seen, classes.test_stream))
    (name,) = [name for name in seen if "atrix" in name]
    assert np.asarray(seen[name]) == pytest.approx(np.array(matrix))


def accuracies(seen: dict[str, float], stream: Any) -> list[float]:
    """Avalanche's accuracy on each experience of a stream."""
    return [seen[f"Top1_Acc_Exp/eval_phase/{stream.name}_stream/Task000/Exp{n:03}"] for n in range(len(stream))]
