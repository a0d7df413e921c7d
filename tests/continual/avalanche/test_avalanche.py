"""Strategies learn exactly what the learner learns by itself, through Avalanche's own loop."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from avalanche.training import Naive

import continual
from continual.avalanche.strategy import MOS, Finetune, Joint, LearnerStrategy, SimpleCIL, strategy_for
from continual.avalanche.streams import to_avalanche
from continual.errors import InputError
from continual.methods import methods
from continual.methods.mos.learner import MOSLearner
from tests.support.avalanche_fixtures import (
    BATCH,
    EPOCHS,
    Recorder,
    assert_same,
    blob_stream,
    evaluator,
    plain,
    settings_of,
)

EVERY_METHOD = sorted(methods())


def strategy(method: str, backbone: Any, **options: Any) -> LearnerStrategy:
    kind = strategy_for(method)
    defaults = {"train_mb_size": BATCH, "train_epochs": EPOCHS, "evaluator": evaluator()}
    return kind(model=backbone, **{**settings_of(kind.learner_type), **defaults, **options})


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_same_bits_as_the_plain_learner(method: str, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    ours = strategy(method, backbone)
    for experience in to_avalanche(stream, backbone.preprocessing).train_stream:
        ours.train(experience)
    assert_same(ours.learner, plain(methods()[method], backbone, stream))


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in ("mos", "strata") else pytest.mark.slow) for name in EVERY_METHOD]
)
def test_evaluation_and_plugins_change_no_bit(method: str, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    benchmark = to_avalanche(stream, backbone.preprocessing)
    ours = strategy(method, backbone, eval_every=1, plugins=[Recorder()], eval_mb_size=4)
    for experience in benchmark.train_stream:
        ours.train(experience, eval_streams=[benchmark.test_stream])
        ours.eval(benchmark.test_stream)
    assert_same(ours.learner, plain(methods()[method], backbone, stream, eval_batch_size=4))


@pytest.mark.parametrize("options", [{"peval_mode": "iteration", "eval_every": 2}, {"eval_every": 0}])
def test_other_periodic_evaluations_change_no_bit(options: Any, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    benchmark = to_avalanche(stream, backbone.preprocessing)
    ours = strategy("mos", backbone, **options)
    ours.train(benchmark.train_stream, eval_streams=[benchmark.test_stream])
    assert_same(ours.learner, plain(MOSLearner, backbone, stream))


@pytest.mark.parametrize("settings", [{"group": "C4", "symmetry": "lambda_equitune"}, {"group": "auto"}])
def test_same_bits_with_a_symmetry(settings: Any, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    benchmark = to_avalanche(stream, backbone.preprocessing.for_a_group())
    ours = strategy("mos", backbone, **settings)
    for experience in benchmark.train_stream:
        ours.train(experience, eval_streams=[benchmark.test_stream])
        ours.eval(benchmark.test_stream)
    assert_same(ours.learner, plain(MOSLearner, backbone, stream, **settings))


def test_workers_change_no_bit(backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    ours = strategy("mos", backbone)
    for experience in to_avalanche(stream, backbone.preprocessing).train_stream:
        ours.train(experience, num_workers=2, pin_memory=False, persistent_workers=True)
        assert ours.clock.train_exp_iterations == 2 * 3  # 12 images in batches of 5, twice
    assert_same(ours.learner, plain(MOSLearner, backbone, stream))


def test_loader_options_reach_the_loader(backbone: Any, blobs: Any) -> None:
    class Look(Recorder):
        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            loader = strategy.dataloader
            self.seen = (loader.num_workers, loader.pin_memory, loader.persistent_workers, loader.drop_last)

    look = Look()
    ours = strategy("finetune", backbone, plugins=[look], train_epochs=1)
    experience = to_avalanche(blob_stream(blobs), backbone.preprocessing).train_stream[0]
    ours.train(experience, num_workers=1, persistent_workers=True, drop_last=True)
    assert look.seen == (1, False, True, True)
    with pytest.raises(InputError, match="shuffle=False is not possible"):
        ours.train(experience, shuffle=False)


def test_a_file_goes_on_where_the_strategy_stopped(backbone: Any, blobs: Any, tmp_path: Any) -> None:
    stream = blob_stream(blobs)
    benchmark = to_avalanche(stream, backbone.preprocessing)
    first = strategy("mos", backbone)
    first.train(benchmark.train_stream[:2])
    first.learner.save(tmp_path / "model.safetensors")
    loaded = MOSLearner.load(tmp_path / "model.safetensors", backbone)
    second = MOS(model=loaded, evaluator=evaluator())
    assert second.learner is loaded
    second.train(benchmark.train_stream[2])
    assert_same(second.learner, plain(MOSLearner, backbone, stream))


def test_trains_through_the_hosts_loop(backbone: Any, blobs: Any) -> None:
    record = Recorder()
    ours = strategy("mos", backbone, plugins=[record])
    ours.train(to_avalanche(blob_stream(blobs), backbone.preprocessing).train_stream)
    epoch = ["before_training_epoch", *["after_training_iteration"] * 3, "after_training_epoch"]
    assert record.calls == ["before_training_exp", *epoch * EPOCHS, "after_training_exp"] * 3
    # The learner changes once an experience: after its last epoch, before the plugins hear that it is over.
    assert record.updates["before_training_exp"] == [0, 1, 2]
    assert record.updates["after_training_epoch"] == [0, 0, 1, 1, 2, 2]
    assert record.updates["after_training_exp"] == [1, 2, 3]


def test_backbone_stays_frozen_in_eval_mode(backbone: Any, blobs: Any) -> None:
    before = {k: v.clone() for k, v in backbone.frozen.state_dict().items()}
    modes: list[bool] = []

    class Watch(Recorder):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            modes.append(strategy.model.training and strategy.model.trained["adapter"].training)
            assert not any(module.training for module in strategy.model.frozen.modules())
            trained = {id(p) for p in strategy.model.parameters() if p.requires_grad}
            assert trained == {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
            assert not trained & {id(p) for p in strategy.model.frozen.parameters()}

    benchmark = to_avalanche(blob_stream(blobs), backbone.preprocessing)
    ours = strategy("mos", backbone, plugins=[Watch()], eval_every=1)
    ours.train(benchmark.train_stream, eval_streams=[benchmark.test_stream])
    assert modes
    assert all(modes)
    assert all(torch.equal(v, before[k]) for k, v in backbone.frozen.state_dict().items())
    assert not ours.model.trained  # nothing trainable is left behind
    assert not any(p.requires_grad for p in ours.model.parameters())


@pytest.mark.parametrize("method", ["mos", "finetune"])
def test_an_experience_without_new_classes(method: str, backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    first, second, again = (to_avalanche(stream, backbone.preprocessing).train_stream[i] for i in (0, 1, 0))
    ours = strategy(method, backbone, eval_every=1)
    for experience in (first, second, again):
        ours.train(experience)
    reference = plain(methods()[method], backbone, stream.__class__("two", stream.experiences[:2], ()))
    reference.learn(stream.experiences[0].train_images, stream.experiences[0].train_labels)
    assert_same(ours.learner, reference)
    assert ours.learner.state.experiences == 2
    assert ours.learner.state.updates == 3


def test_scheduler_steps_once_an_epoch(backbone: Any, blobs: Any) -> None:
    rates: list[list[float]] = []

    class Rates(Recorder):
        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            rates.append([group["lr"] for group in strategy.optimizer.param_groups])

    ours = strategy("mos", backbone, plugins=[Rates()], train_epochs=4, lr=0.08, head_lr_ratio=0.5)
    ours.train(to_avalanche(blob_stream(blobs, 4), backbone.preprocessing).train_stream)
    cosine = [1.0, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2]
    assert torch.allclose(torch.tensor(rates), 0.08 * torch.tensor([[c, 0.5 * c] for c in cosine * 2]))


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop]
)
def test_a_given_optimizer_is_made_anew_with_the_learners_groups(kind: Any, backbone: Any, blobs: Any) -> None:
    given = kind(backbone.frozen.parameters(), lr=0.02, weight_decay=0.01)
    seen: list[torch.optim.Optimizer] = []

    class Look(Recorder):
        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            seen.append(strategy.optimizer)
            assert [g["lr"] for g in strategy.optimizer.param_groups] == [0.02, 0.02 * 0.1]
            assert [g["weight_decay"] for g in strategy.optimizer.param_groups] == [0.01, 0.01]

    ours = MOS(model=backbone, optimizer=given, train_epochs=1, bottleneck=4, plugins=[Look()], evaluator=evaluator())
    ours.train(to_avalanche(blob_stream(blobs, 4), backbone.preprocessing).train_stream)
    assert ours.learner.settings.lr == 0.02
    assert [type(optimizer) for optimizer in seen] == [kind, kind]
    assert seen[0] is not seen[1]
    assert given not in seen


def test_sgd_given_is_the_methods_own_optimizer(backbone: Any, blobs: Any) -> None:
    stream = blob_stream(blobs)
    given = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.07, momentum=0.9, weight_decay=5e-4)
    options = {k: v for k, v in settings_of(MOSLearner).items() if k != "lr"}
    ours = MOS(
        model=backbone, optimizer=given, train_mb_size=BATCH, train_epochs=EPOCHS, evaluator=evaluator(), **options
    )
    ours.train(to_avalanche(stream, backbone.preprocessing).train_stream)
    assert_same(ours.learner, plain(MOSLearner, backbone, stream, lr=0.07))


@pytest.mark.parametrize("hook", ["after_training_epoch", "after_eval_iteration"])
def test_a_failure_leaves_no_trace(hook: str, backbone: Any, blobs: Any) -> None:
    """Interrupted in the second experience: after its second epoch, or while it is evaluated after the first."""
    left = {"after_training_epoch": 2, "after_eval_iteration": 1}

    def fail_once(self: Recorder, strategy: Any, **kwargs: Any) -> None:
        if strategy.training is not None and strategy.learner.state.updates == 1:
            left[hook] -= 1
            if left[hook] == 0:
                raise KeyboardInterrupt

    stream = blob_stream(blobs)
    benchmark = to_avalanche(stream, backbone.preprocessing)
    ours = strategy("mos", backbone, plugins=[type("Fail", (Recorder,), {hook: fail_once})()], eval_every=1)
    with pytest.raises(KeyboardInterrupt):
        ours.train(benchmark.train_stream)
    assert ours.learner.state.updates == 1
    assert len(ours.learner.classes) == 2
    accuracy = ours.eval(benchmark.test_stream)["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001"]
    assert accuracy == 0  # the interrupted experience was not learned, not even for the evaluation
    ours.train(benchmark.train_stream[1:])
    assert_same(ours.learner, plain(MOSLearner, backbone, stream))


def test_a_loss_that_diverges_is_an_error(backbone: Any, blobs: Any) -> None:
    ours = strategy("mos", backbone, lr=1e30)
    with pytest.raises(continual.EquimosError, match="the training loss became .*lower lr"):
        ours.train(to_avalanche(blob_stream(blobs), backbone.preprocessing).train_stream)
    assert ours.learner.state.updates == 0


# How a strategy is made ----------------------------------------------------------------------------------


def test_every_argument_of_naive_is_taken() -> None:
    names = set(inspect.signature(Naive.__init__).parameters) - {"base_kwargs"}
    assert names <= set(inspect.signature(LearnerStrategy.__init__).parameters)


def test_method_defaults_and_avalanches_names_for_settings(backbone: Any) -> None:
    default = MOS(model=backbone, evaluator=evaluator())
    assert default.learner.settings == MOSLearner(backbone).settings
    assert (default.train_epochs, default.train_mb_size, default.eval_mb_size) == (20, 48, 128)
    named = MOS(model=backbone, train_epochs=3, train_mb_size=7, eval_mb_size=9, preset="reference", alpha=0.2)
    used = named.learner.settings
    assert (used.epochs, used.batch_size, used.eval_batch_size, used.alpha) == (3, 7, 9, 0.2)
    assert used.merge == "per_forward"
    # a method without training has no such settings, but Avalanche's scripts give them all the same
    assert (
        SimpleCIL(model=backbone, train_epochs=3, train_mb_size=7, eval_mb_size=9).learner.settings.eval_batch_size == 9
    )


def test_strategies_by_name() -> None:
    assert [strategy_for(name) for name in ("mos", "simple_cil", "finetune", "joint")] == [
        MOS,
        SimpleCIL,
        Finetune,
        Joint,
    ]
    assert strategy_for(MOSLearner) is MOS
    assert continual.MOS is MOS

    class OtherLearner(MOSLearner):
        method = "other"

    other = strategy_for(OtherLearner)
    assert (other.__name__, other.learner_type) == ("Other", OtherLearner)
    assert strategy_for(OtherLearner) is other
    with pytest.raises(InputError, match="did you mean 'finetune'"):
        strategy_for("fintune")


def test_positional_arguments_warn_as_in_any_strategy(backbone: Any) -> None:
    with pytest.warns(UserWarning, match="positional arguments"):
        ours = MOS(backbone, None, None, 7, 3)
    assert (ours.train_mb_size, ours.train_epochs) == (7, 3)


def test_a_timm_model_is_assembled() -> None:
    import timm

    options = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224.augreg_in21k", **options)
    ours = MOS(model=vit, evaluator=evaluator())
    assert ours.learner.backbone.name == "vit_tiny_patch16_224.augreg_in21k"
    assert ours.learner.backbone.frozen.network is vit
    # the fingerprint is that of the model without its classifier, as load_backbone makes it
    assert not any(key.startswith("head.") for key in vit.state_dict())
    bare = timm.models.VisionTransformer(**options)
    assert MOS(model=bare, evaluator=evaluator()).learner.backbone.name == "VisionTransformer"


def test_a_learner_is_taken_as_it_is_or_varied(backbone: Any, blobs: Any) -> None:
    learner = MOSLearner(backbone, epochs=1, bottleneck=4)
    learner.learn(*blobs([0, 1]))
    assert MOS(model=learner).learner is learner
    assert LearnerStrategy(model=learner).learner is learner
    varied = MOS(model=learner, train_epochs=9, seed=4).learner
    assert varied is not learner
    assert (varied.settings.epochs, varied.settings.seed, varied.settings.bottleneck) == (9, 4, 4)
    assert varied.state is learner.state
    assert learner.settings.epochs == 1


def test_settings_may_be_one_object(backbone: Any) -> None:
    settings = MOSLearner.settings_type(bottleneck=4, epochs=3)
    assert MOS(model=backbone, settings=settings).learner.settings is settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alhpa": 0.1}, "unknown setting 'alhpa': did you mean 'alpha'"),
        ({"train_epoch": 1}, "unknown setting 'train_epoch'"),
        ({"settings": {}}, "takes settings by name, or as one MOSSettings, not both"),
        ({"preset": "papr"}, "unknown preset 'papr': did you mean 'paper'"),
        ({"train_epochs": -1}, "epochs"),
        ({"train_epochs": 1, "epochs": 2}, "epochs given twice"),
        ({"optimizer": 0.1}, "optimizer must be None or a torch optimizer, got float"),
        ({"model": torch.nn.Linear(2, 2)}, "a Linear cannot be read in stages of maps"),
        (
            {"model": "vit_base_patch16_224"},
            "model must be a Backbone, a list of several, a timm ViT or a learner, got str",
        ),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str, backbone: Any) -> None:
    with pytest.raises(continual.EquimosError, match=message):
        MOS(**{"model": backbone, **options})


def test_learners_that_do_not_fit_are_refused(backbone: Any, blobs: Any) -> None:
    learner = MOSLearner(backbone, epochs=0, bottleneck=4)
    with pytest.raises(InputError, match=r"use strategy_for\('mos'\)"):
        Finetune(model=learner)
    with pytest.raises(InputError, match="instead of a preset"):
        MOS(model=learner, preset="paper")
    with pytest.raises(InputError, match="the learner is on cpu"):
        MOS(model=learner, device="cuda")
    with pytest.raises(InputError, match="strategy_for"):
        LearnerStrategy(model=backbone)
    learner.learn(blobs([0, 1])[0], ["cat"] * 8 + ["dog"] * 8)
    with pytest.raises(InputError, match="labels are ints"):
        MOS(model=learner)


def test_a_scheduler_plugin_is_refused(backbone: Any) -> None:
    from avalanche.training.plugins import LRSchedulerPlugin

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    plugin = LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 1))
    with pytest.raises(InputError, match="LRSchedulerPlugin would have no effect"):
        MOS(model=backbone, optimizer=optimizer, plugins=[plugin])
