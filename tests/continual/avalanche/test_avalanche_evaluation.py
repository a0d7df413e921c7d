"""What Avalanche's metrics, loggers and plugins see of a strategy."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.evaluation import metrics as m
from avalanche.logging import CSVLogger, TextLogger
from avalanche.training.plugins import EarlyStoppingPlugin, ReplayPlugin
from safetensors import safe_open

from continual.avalanche.module import FLOOR
from continual.avalanche.strategy import MOS, Finetune, Joint, LearnerStrategy, SimpleCIL, strategy_for
from continual.avalanche.streams import to_avalanche
from continual.datasets.streams import split_classes
from continual.methods.finetune import FinetuneLearner, FinetuneTraining
from continual.methods.mos.learner import MOSLearner
from tests.support.avalanche_fixtures import (
    ALIGNMENT,
    BATCH,
    EPOCHS,
    SETTINGS,
    Recorder,
    assert_same,
    blob_stream,
    evaluator,
    plain,
)

FINETUNE: dict[str, Any] = {**SETTINGS, "train_epochs": EPOCHS, "train_mb_size": BATCH}
OPTIONS: dict[str, Any] = {**FINETUNE, **ALIGNMENT}
EXPERIENCE = "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{:03}"


@pytest.fixture
def benchmark(backbone: Any, blobs: Any) -> Any:
    return to_avalanche(blob_stream(blobs), backbone.preprocessing)


def mos(backbone: Any, *metrics: Any, loggers: Any = None, **options: Any) -> LearnerStrategy:
    return MOS(model=backbone, evaluator=evaluator(*metrics, loggers=loggers), **{**OPTIONS, **options})


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    return [float(value)] if isinstance(value, int | float) else []


def test_metrics_are_finite_on_the_whole_stream_from_the_start(backbone: Any, benchmark: Any) -> None:
    ours = mos(
        backbone,
        m.loss_metrics(minibatch=True, epoch=True, epoch_running=True, experience=True, stream=True),
        m.timing_metrics(epoch=True, experience=True),
        m.forgetting_metrics(experience=True, stream=True),
        m.bwt_metrics(experience=True, stream=True),
        m.forward_transfer_metrics(experience=True, stream=True),
        m.confusion_matrix_metrics(stream=True, save_image=False),
        m.class_accuracy_metrics(epoch=True, experience=True, stream=True),
        m.topk_acc_metrics(top_k=2, epoch=True, experience=True, stream=True),
        m.amca_metrics(streams=("test_stream",)),
        m.accuracy_matrix_metrics(),
        m.MAC_metrics(minibatch=True),
        m.ram_usage_metrics(every=1, epoch=True),
        m.labels_repartition_metrics(on_train=True, on_eval=True),
        m.mean_scores_metrics(on_train=False, on_eval=False, image_creator=None),
        eval_every=0,
    )
    for experience in benchmark.train_stream:
        ours.train(experience, eval_streams=[benchmark.test_stream])
    seen = ours.evaluator.get_all_metrics()
    for name, (_, values) in seen.items():
        assert all(math.isfinite(number) for value in values for number in numbers(value)), name
    for family in ("StreamForgetting", "StreamBWT", "StreamForwardTransfer", "ConfusionMatrix_Stream", "Loss_Stream"):
        assert any(name.startswith(family) for name in seen), family


def test_metrics_are_those_of_the_learner(backbone: Any, benchmark: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    ours = mos(
        backbone,
        m.forgetting_metrics(experience=True),
        m.loss_metrics(experience=True),
        m.confusion_matrix_metrics(num_classes=6, stream=True, save_image=False),
        eval_mb_size=2,
    )
    reference = MOSLearner(backbone, epochs=EPOCHS, batch_size=BATCH, eval_batch_size=2, **SETTINGS, **ALIGNMENT)
    accuracies = []
    for experience, own in zip(benchmark.train_stream, stream.experiences, strict=True):
        ours.train(experience)
        reference.learn(own.train_images, own.train_labels)
        seen = ours.eval(benchmark.test_stream)
        for i, tested in enumerate(stream.experiences):
            known = tested.classes[0] in reference.classes
            right = reference.evaluate(tested.test_images, tested.test_labels) if known else 0.0
            assert seen[EXPERIENCE.format(i)] == pytest.approx(right)
            accuracies.append(right)
    first = stream.experiences[0]
    forgetting = accuracies[0] - reference.evaluate(first.test_images, first.test_labels)
    assert seen["ExperienceForgetting/eval_phase/test_stream/Task000/Exp000"] == pytest.approx(forgetting)

    prediction = reference.predict(first.test_images)
    answered = prediction.scores[range(len(first.test_labels)), reference.indices(first.test_labels)]
    expected = float(-answered.log().mean())
    assert seen["Loss_Exp/eval_phase/test_stream/Task000/Exp000"] == pytest.approx(expected, rel=1e-5)

    confusion = torch.zeros(6, 6)
    for tested in stream.experiences:
        for truth, answer in zip(tested.test_labels, reference.predict(tested.test_images).labels, strict=True):
            confusion[truth, answer] += 1
    assert torch.equal(seen["ConfusionMatrix_Stream/eval_phase/test_stream"].float(), confusion)


def test_outputs_are_indexed_by_label_and_bounded(backbone: Any, benchmark: Any, blobs: Any) -> None:
    record = Recorder()
    ours = mos(backbone, plugins=[record], eval_mb_size=128)
    ours.train(benchmark.train_stream[1])  # labels 2 and 3
    ours.eval(benchmark.test_stream)
    training = [(output, y) for phase, output, y in record.outputs if phase == "train"]
    for output, _ in training:
        assert output.shape[1] == 4
        assert (output[:, :2] == torch.tensor(FLOOR).log()).all()
        assert torch.allclose(output[:, 2:].exp().sum(-1), torch.ones(len(output)))
    (_, known, labels), (_, future, _) = record.outputs[-2:]
    assert labels.tolist() == [2, 2, 2, 3, 3, 3]
    scores = ours.learner.predict(blob_stream(blobs).experiences[1].test_images).scores
    assert torch.equal(known[:, 2:4], scores.clamp_min(FLOOR).log())
    assert future.shape[1] == 6
    assert future.isfinite().all()
    assert set(future.argmax(-1).tolist()) <= {2, 3}
    # MOS trains on the new classes alone, and so do its outputs in training
    record.outputs.clear()
    ours.train(benchmark.train_stream[2], eval_streams=[])
    assert all((output[:, :4] == torch.tensor(FLOOR).log()).all() for _, output, _ in record.outputs)


def test_evaluating_before_anything_was_learned(backbone: Any, benchmark: Any) -> None:
    ours = mos(backbone, m.loss_metrics(experience=True))
    seen = ours.eval(benchmark.test_stream)
    # every class is as likely as the others
    assert seen["Loss_Exp/eval_phase/test_stream/Task000/Exp002"] == pytest.approx(math.log(6))
    assert ours.learner.classes == ()


def test_future_experiences_do_not_grow_the_head(backbone: Any, benchmark: Any) -> None:
    ours = mos(backbone)
    ours.train(benchmark.train_stream[0])
    state = ours.learner.state
    ours.eval(benchmark.test_stream)
    assert ours.learner.state is state
    assert state.head.weight.shape[0] == 2


def test_evaluation_is_pure(backbone: Any, benchmark: Any) -> None:
    record = Recorder()
    ours = mos(backbone, plugins=[record])
    ours.train(benchmark.train_stream[:2])
    record.outputs.clear()
    torch.manual_seed(0)
    ours.eval(benchmark.test_stream)
    torch.manual_seed(1)
    ours.eval(benchmark.test_stream)
    half = len(record.outputs) // 2
    for (_, once, _), (_, twice, _) in zip(record.outputs[:half], record.outputs[half:], strict=True):
        assert torch.equal(once, twice)


@pytest.mark.parametrize("kind", [MOS, Finetune, Joint])
def test_evaluation_in_the_middle_answers_as_if_training_ended_there(kind: Any, backbone: Any, benchmark: Any) -> None:
    record = Recorder()
    options = OPTIONS if kind is MOS else FINETUNE
    ours = kind(model=backbone, plugins=[record], evaluator=evaluator(), eval_every=1, **options)
    ours.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert ours.model.learner is ours.learner  # the copy that answered is gone
    record.outputs = [output for output in record.outputs if output[0] == "eval"]
    # Evaluated 1 + 2 times on 3 experiences; with eval_every=1 none comes after the last epoch's.
    before, after_first_epoch, after_last_epoch = (record.outputs[i : i + 3] for i in (0, 3, 6))
    assert len(record.outputs) == 9
    assert len(set(before[0][1].flatten().tolist())) == 1
    assert (after_first_epoch[0][1].argmax(-1) < 2).all()  # the new classes are among the answers already
    assert not torch.equal(after_first_epoch[0][1], after_last_epoch[0][1])
    record.outputs = []
    ours.eval(benchmark.test_stream)
    for (_, middle, _), (_, finished, _) in zip(after_last_epoch, record.outputs, strict=True):
        assert torch.equal(middle, finished)


def test_evaluation_in_the_middle_may_train(backbone: Any, benchmark: Any) -> None:
    """Avalanche evaluates without gradients, but a method may need them to finish an experience."""
    gradients: list[bool] = []

    class Finishing(FinetuneTraining):
        def finish(self, progress: Any = None) -> Any:
            gradients.append(torch.is_grad_enabled())
            return super().finish(progress)

    class FinishingLearner(FinetuneLearner):
        method = "finishing"

        def begin(self, data: Any) -> Any:
            return Finishing(self.start, data)

    kind = strategy_for(FinishingLearner)
    ours = kind(model=backbone, evaluator=evaluator(), eval_every=1, **FINETUNE)
    ours.train(benchmark.train_stream[0])
    assert gradients == [True] * (EPOCHS + 1)


def test_a_method_without_epochs_is_evaluated_after_it_learned(backbone: Any, benchmark: Any) -> None:
    """Avalanche's periodic evaluation with eval_every=1 leaves the last evaluation to the last epoch."""
    ours = SimpleCIL(model=backbone, evaluator=evaluator(), eval_every=1)
    seen = ours.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert seen[EXPERIENCE.format(0)] > 0.5
    silent = SimpleCIL(model=backbone, evaluator=evaluator())
    assert EXPERIENCE.format(0) not in silent.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])


@pytest.mark.parametrize(("eval_every", "explicit", "experiences"), [(-1, 1, 6), (-1, 3, 9), (0, 0, 18), (1, 0, 27)])
def test_number_of_evaluations(eval_every: int, explicit: int, experiences: int, backbone: Any, benchmark: Any) -> None:
    """What each way of evaluating costs on 3 experiences, in evaluated experiences."""
    count = Recorder()
    ours = mos(backbone, plugins=[count], eval_every=eval_every)
    for k, experience in enumerate(benchmark.train_stream):
        ours.train(experience, eval_streams=[benchmark.test_stream] if eval_every > -1 else [])
        if explicit:
            ours.eval(benchmark.test_stream[: k + 1] if explicit == 1 else benchmark.test_stream)
    assert len([output for output in count.outputs if output[0] == "eval"]) == experiences


def test_without_eval_streams_the_training_experience_is_evaluated(backbone: Any, benchmark: Any) -> None:
    seen = mos(backbone, eval_every=0).train(benchmark.train_stream[0])
    assert "Top1_Acc_Exp/eval_phase/train_stream/Task000/Exp000" in seen


def test_csv_logger_needs_an_explicit_evaluation(backbone: Any, benchmark: Any, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    metrics = m.loss_metrics(epoch=True, experience=True), m.forgetting_metrics(experience=True)
    ours = mos(backbone, *metrics, loggers=[logger], eval_every=0)
    ours.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    assert len((tmp_path / "eval_results.csv").read_text().splitlines()) == 1  # Avalanche's way: a header only
    ours.eval(benchmark.test_stream)
    logger.close()
    assert len((tmp_path / "eval_results.csv").read_text().splitlines()) == 1 + 3
    header, *rows = (tmp_path / "training_results.csv").read_text().splitlines()
    assert header.startswith("training_exp,epoch")
    assert len(rows) == EPOCHS


def test_text_logger(backbone: Any, benchmark: Any, tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as file:
        ours = mos(backbone, loggers=[TextLogger(file)])
        ours.train(benchmark.train_stream[0])
        ours.eval(benchmark.test_stream)
    assert "-- >> End of eval phase << --" in (tmp_path / "log.txt").read_text()


def test_the_module_answers_like_the_learner(backbone: Any, benchmark: Any, blobs: Any) -> None:
    ours = mos(backbone)
    images = torch.stack([benchmark.test_stream[0].dataset.eval()[i][0] for i in range(3)])
    assert ours.model(images).shape == (3, 0)
    ours.train(benchmark.train_stream[0])
    with torch.no_grad():
        assert torch.equal(ours.model(images).exp().argmax(-1), ours.learner.predict(images).scores.argmax(-1))


def test_the_file_holds_tensors_and_no_code(backbone: Any, benchmark: Any, tmp_path: Path) -> None:
    """Avalanche's checkpoints pickle the whole strategy, and fail to with today's optimizers."""
    options = {k: v for k, v in OPTIONS.items() if k != "lr"}
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.01)
    ours = MOS(model=backbone, optimizer=adam, evaluator=evaluator(), **options)
    ours.train(benchmark.train_stream[0])
    ours.learner.save(tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert "state/head/weight" in list(file.keys())
    again = MOS(model=MOSLearner.load(tmp_path / "model.safetensors", backbone), evaluator=evaluator())
    seen = ours.eval(benchmark.test_stream)
    for name, value in again.eval(benchmark.test_stream).items():
        assert seen[name] == value, name


def test_replay_plugin_feeds_old_images(backbone: Any, benchmark: Any) -> None:
    labels: list[int] = []

    class Look(Recorder):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            labels.extend(strategy.mb_y.tolist())

    plugins = [ReplayPlugin(mem_size=8, batch_size_mem=2), Look()]
    ours = Finetune(model=backbone, plugins=plugins, evaluator=evaluator(), **FINETUNE)
    ours.train(benchmark.train_stream[0])
    labels.clear()
    ours.train(benchmark.train_stream[1])
    assert set(labels) == {0, 1, 2, 3}


def test_early_stopping_goes_back_to_the_best_weights(backbone: Any, benchmark: Any) -> None:
    heads: list[torch.Tensor] = []

    class Spoil(Recorder):
        """From the second epoch on, the weights are ruined."""

        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.clock.train_exp_epochs > 0:
                strategy.model.trained["head"].weight.data.zero_()
                strategy.model.trained["head"].bias.data.copy_(torch.tensor([0.0, 9.0]))
            heads.append(strategy.model.trained["head"].weight.detach().clone())

    stop = EarlyStoppingPlugin(patience=1, val_stream_name="train_stream/Task000")
    ours = Finetune(
        model=backbone, plugins=[stop, Spoil()], evaluator=evaluator(), eval_every=1, **{**FINETUNE, "train_epochs": 9}
    )
    with pytest.warns(UserWarning, match="is not computed yet"):
        ours.train(benchmark.train_stream[0])
    assert len(heads) < 9
    final = ours.learner.state.head.weight
    assert not torch.equal(final, heads[-1])
    assert torch.equal(final, stop.best_state["trained.head.weight"])


def test_losses_are_the_methods_own(backbone: Any, benchmark: Any, blobs: Any) -> None:
    """The criterion is for evaluation; with another one the training stays the same."""
    record = Recorder()
    ours = Finetune(
        model=backbone,
        plugins=[record],
        criterion=torch.nn.NLLLoss(reduction="sum"),
        evaluator=evaluator(m.loss_metrics(minibatch=True, stream=True)),
        **FINETUNE,
    )
    ours.train(benchmark.train_stream)
    assert_same(ours.learner, plain(FinetuneLearner, backbone, blob_stream(blobs)))
    logged = ours.evaluator.get_all_metrics()["Loss_MB/train_phase/train_stream/Task000"][1]
    assert logged == record.losses


def test_scores_are_averaged_over_views_as_predict_does(backbone: Any, blobs: Any) -> None:
    """Evaluation asks for a learner's answers, not for the scores of the views that it is given."""
    backbone = replace(backbone, preprocessing=replace(backbone.preprocessing, crop_pct=1.0))
    record, train, (images, labels) = Recorder(), blobs([0, 1], 6), blobs([0, 1], 3, seed=1)
    symmetry = {"group": "C4", "symmetry": "score_averaging"}
    ours = SimpleCIL(model=backbone, **symmetry, evaluator=evaluator(), plugins=[record], eval_mb_size=6)
    for quarters in range(4):
        rotated = images.rot90(quarters, (-2, -1))
        stream = split_classes("rotated", train, (rotated, labels), sizes=2, seed=None)
        benchmark = to_avalanche(stream, backbone.preprocessing)
        if not quarters:
            ours.train(benchmark.train_stream[0])
        ours.eval(benchmark.test_stream)
        _, scores, _ = record.outputs[-1]
        assert torch.equal(scores, ours.learner.predict(rotated).scores.log())
        assert torch.equal(scores, record.outputs[-1 - quarters][1]), f"after {quarters} quarter turns"
    plain = ours.learner.variant(symmetry="augmentation")
    assert not torch.equal(plain.predict(images).scores, plain.predict(rotated).scores)
