"""Tuning: what each recipe trains, early stopping, caches, and going on after a stop, to the bit."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.tuning.orbit_cache import CachedOrbit, cache_views, frozen_modules
from equivariant.tuning.recipes import RECIPES, as_recipe
from equivariant.tuning.result import Record
from equivariant.tuning.run import _better
from equivariant.tuning.tune import parameter_parts
from tests.support.zoo import TinyUNet

Data = tuple[Tensor, Tensor]


def sided(count: int, seed: int) -> Data:
    """Two classes of 1 x 4 x 4 images, by a bright left or right lower half; a bright top row says what is up."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    x = torch.randn(count, 1, 4, 4, generator=generator) * 0.1
    x[:, :, 0] += 2
    x[:, 0, 2:, :2] += (1 - labels)[:, None, None] * 1.0
    x[:, 0, 2:, 2:] += labels[:, None, None] * 1.0
    return x, labels


TRAIN, VALIDATION, TEST = sided(64, 0), sided(32, 1), sided(40, 2)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, nn.Module]:
    """A network that reads upright images well, as features and head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2))
        head = nn.Linear(12, 2)
        recipe = eq.Recipe((eq.Stage("everything", steps=80, learning_rate=0.02),), turn=False, batch_statistics=True)
        eq.tune(nn.Sequential(features, head), TRAIN, VALIDATION, recipe, group="C4")
    return features.eval(), head


@pytest.fixture
def wrapper(trained: tuple[nn.Module, nn.Module]) -> eq.LambdaEquitune:
    features, head = copy.deepcopy(trained)
    return eq.LambdaEquitune(features, "C4", head=head, width=12)


SHORT = eq.Recipe((eq.Stage("weights", steps=60, learning_rate=0.01),), batch_size=32, validate_every=10)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name, t in model.state_dict().items() if not torch.equal(t, before[name])}


def test_lambda_alone_makes_a_turned_test_set_readable(wrapper: eq.LambdaEquitune) -> None:
    plain = eq.evaluate(nn.Sequential(wrapper.model, wrapper.head), TEST, "C4")
    assert plain.upright > 0.95 > 0.8 > plain.turned
    before = state(wrapper)
    result = eq.tune(wrapper, TRAIN, VALIDATION, SHORT, test=TEST)
    assert changed(wrapper, before) == {"network"}
    assert result.before is not None
    assert result.after is not None
    assert result.after.upright == result.after.turned > 0.95
    assert result.after.weights["e"] > 0.9 > 0.26 > result.before.weights["e"]
    eq.assert_equivariant(wrapper, "C4", TEST[0])


def test_features_from_the_cache_train_the_same(wrapper: eq.LambdaEquitune) -> None:
    train, validation = [(x.double(), labels) for x, labels in (TRAIN, VALIDATION)]
    other = copy.deepcopy(wrapper.double())
    passes: list[int] = []
    wrapper.model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    cached = eq.tune(wrapper, train, validation, SHORT)
    assert sum(passes) == 4 * (64 + 32)
    plain = eq.tune(other, train, validation, replace(SHORT, cache=False))
    torch.testing.assert_close(wrapper.state_dict(), other.state_dict())
    assert [r.step for r in cached.history] == [r.step for r in plain.history]
    assert isinstance(wrapper.model, nn.Sequential)
    assert wrapper.input == eq.Images()


def test_a_cache_is_moved_as_its_image_is() -> None:
    x, model = torch.randn(2, 1, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    cache, _ = cache_views(eq.Equitune(model, "D4"), (x, torch.zeros(2, dtype=torch.int64)), 8)
    assert eq.action_error("D4", CachedOrbit(), cache).largest == 0
    for g in range(8):
        moved, _ = cache_views(eq.Equitune(model, "D4", chunk=3), (eq.act("D4", g, x), torch.zeros(2).long()), 1)
        torch.testing.assert_close(moved, CachedOrbit()(eq.as_group("D4"), g, cache))


def test_lambda_then_everything(wrapper: eq.LambdaEquitune) -> None:
    before, seen = state(wrapper), []
    recipe = replace(
        SHORT, stages=(eq.Stage("weights", 10), eq.Stage("everything", 20, 1e-3)), validate_every=5, cache=False
    )
    modes: dict[str, set[bool]] = {}

    def look(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        seen.append((stage, done, total))
        modes.setdefault(stage, set()).add(wrapper.model.training)
        assert figures["loss"] > 0

    result = eq.tune(wrapper, TRAIN, VALIDATION, recipe, progress=look)
    assert seen == [("weights", i + 1, 10) for i in range(10)] + [("everything", i + 1, 20) for i in range(20)]
    assert modes == {"weights": {False}, "everything": {True}}
    assert {record.stage for record in result.history} == {0, 1}
    assert changed(wrapper, before) >= {"network", "model", "head"}


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_batch_norm_keeps_its_statistics_unless_asked(wrapper: eq.LambdaEquitune, batch_statistics: bool) -> None:
    norm = next(module for module in wrapper.modules() if isinstance(module, nn.BatchNorm1d))
    mean = norm.running_mean.clone()
    recipe = eq.Recipe((eq.Stage("everything", 5),), validate_every=5, batch_statistics=batch_statistics)
    states: list[Tensor] = []
    eq.tune(wrapper, TRAIN, VALIDATION, recipe, progress=lambda *_: states.append(norm.running_mean.clone()))
    assert torch.equal(states[-1], mean) is not batch_statistics
    assert norm.training is False


@pytest.mark.parametrize("kind", [eq.Equitune, eq.Equizero, eq.OrbitMax])
def test_the_head_alone_outside_a_frozen_orbit(kind: Any, trained: tuple[nn.Module, nn.Module]) -> None:
    features, _ = copy.deepcopy(trained)
    model = nn.Sequential(kind(features, "C4"), nn.Linear(12, 2))
    before = state(model)
    recipe = replace(SHORT, stages=(eq.Stage("head", 40, 0.05, "sgd"),))
    result = eq.tune(model, TRAIN, VALIDATION, recipe)
    assert changed(model, before) == {"1"}
    assert result.history[-1].validation_accuracy >= result.history[0].validation_accuracy
    assert set(parameter_parts(model)) == {"weights", "head", "backbone"}


@pytest.mark.parametrize("kind", ["canonicaliser", "pruned", "lambda on input"])
def test_other_scores_train_without_a_cache(kind: str, trained: tuple[nn.Module, nn.Module]) -> None:
    features, head = copy.deepcopy(trained)
    whole = nn.Sequential(features, head)
    wrapper = {
        "canonicaliser": lambda: eq.Canonicaliser(whole, "C4", channels=1),
        "pruned": lambda: eq.PrunedOrbit(
            eq.StagedPair(nn.Flatten(), nn.Sequential(features[1:], head), 16), "C4", keep=1
        ),
        "lambda on input": lambda: eq.LambdaEquitune(whole, "C4", network=eq.ImageScore(1), reads="input"),
    }[kind]()
    backbone = {name: tensor for name, tensor in state(wrapper).items() if name.startswith("model")}
    result = eq.tune(wrapper, TRAIN, VALIDATION, SHORT, test=TEST)
    assert changed(wrapper, state(wrapper) | backbone) == set()
    assert result.after is not None
    assert result.after.turned > 0.9


@pytest.fixture
def pruned(trained: tuple[nn.Module, nn.Module]) -> eq.PrunedOrbit:
    """The same network, cut in two; what is scored early is the image, of which a small network can see the top."""
    features, head = copy.deepcopy(trained)
    staged = eq.StagedPair(nn.Sequential(nn.Flatten(), features[1]), nn.Sequential(features[2:], head), 12)
    return eq.PrunedOrbit(staged, "C4", keep=1).eval()


@pytest.mark.parametrize("train", ["weights", "upright"])
def test_a_tuned_pruned_orbit_is_trained_and_pruned(pruned: eq.PrunedOrbit, train: Any) -> None:
    before = state(pruned)
    result = eq.tune(pruned, TRAIN, VALIDATION, replace(SHORT, stages=(eq.Stage(train, 100, 0.01),)), test=TEST)
    assert changed(pruned, before) == {"score"}
    assert result.before is not None
    assert result.after is not None
    assert result.before.passes == pytest.approx(4), "untrained, all views tie and all are finished"
    share = 12 / (12 + 2)  # of the two layers, which are nearly all there is
    assert result.after.passes == pytest.approx(4 * share + (1 - share), abs=0.1)
    assert result.after.upright == result.after.turned > 0.9
    eq.assert_equivariant(pruned, "C4", TEST[0])
    assert result.after.weights["e"] > 0.9
    found = (pruned.orbit_weights(TEST[0])[0] == 1).float().mean()
    assert found > 0.9, "the view as given is the only one that is finished"
    assert max(record.finished for record in result.history) == (4 if train == "weights" else 1)


def everywhere(count: int, seed: int) -> Data:
    """Two classes that can be read in any view: darker and brighter, in much noise, below a bright top row."""
    images = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % 2
    images += (labels * 0.6 - 0.3)[:, None, None, None]
    images[:, 0, 0] += 2
    return images, labels


def test_it_is_pruned_though_the_whole_orbit_answers_better() -> None:
    train, validation = everywhere(48, 0), everywhere(400, 1)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    eq.tune(layers, train, validation, replace(SHORT, stages=(eq.Stage("everything", 60, 0.01),)), group="C4")
    wrapper = eq.PrunedOrbit(eq.StagedPair(layers[:2], layers[2:], 12), "C4").eval()
    little = replace(SHORT, stages=(eq.Stage("weights", 4, 1e-4),), validate_every=2)
    first, *later = eq.tune(wrapper, train, validation, little).history
    assert first.finished == 4
    assert all(record.validation_accuracy < first.validation_accuracy for record in later)
    assert max(record.finished for record in later) < 1.1
    assert (wrapper.orbit_weights(validation[0]) > 0).sum() < 1.1 * 400


def test_upright_is_found_without_labels(pruned: eq.PrunedOrbit) -> None:
    none = torch.zeros(64, dtype=torch.int64)
    stages = (eq.Stage("upright", 100, 0.01),)
    data = (TRAIN[0], none), (VALIDATION[0], none[:32])
    result = eq.tune(pruned, *data, replace(SHORT, stages=stages))
    assert result.history[0].validation_accuracy == 0, "views that tie are not found"
    assert max(record.validation_accuracy for record in result.history) > 0.9
    early, late = pruned.model.first, pruned.model.second
    weighted = eq.LambdaEquitune(early, "C4", head=late, width=12)
    for other in (weighted, eq.Canonicaliser(pruned.model, "C4", channels=1)):
        tuned = eq.tune(other, *data, replace(SHORT, stages=stages))
        assert max(record.validation_accuracy for record in tuned.history) > 0.9
    with pytest.raises(eq.InputError, match="no network that scores views"):
        eq.Equitune(pruned.model, "C4").orbit_scores(TRAIN[0])


def test_a_record_that_finishes_fewer_views_is_better() -> None:
    def record(accuracy: float, finished: float, loss: float = 1.0) -> Record:
        return Record(0, 0, None, loss, accuracy, finished, finished)

    assert _better(record(0.5, 1), record(0.9, 4))
    assert not _better(record(0.9, 4), record(0.5, 1))
    assert _better(record(0.9, 1.05), record(0.8, 1))
    assert not _better(record(0.9, 1), record(0.9, 1))
    assert _better(record(0.9, 1, 0.5), record(0.9, 1))


def test_a_plain_model_needs_a_group_and_parts(trained: tuple[nn.Module, nn.Module]) -> None:
    model = nn.Sequential(*copy.deepcopy(trained))
    recipe = replace(SHORT, stages=(eq.Stage("head", 10),))
    with pytest.raises(eq.InputError, match="group='C4'"):
        eq.tune(model, TRAIN, VALIDATION, recipe)
    before = state(model)
    result = eq.tune(
        model, TRAIN, VALIDATION, recipe, group="C4", parts={"head": list(model[1].parameters())}, test=TEST
    )
    assert changed(model, before) <= {"1"}
    assert result.after is not None
    assert result.after.weights == {}


@pytest.mark.parametrize("turn", [True, False])
def test_a_plain_model_sees_turned_training_images(turn: bool, trained: tuple[nn.Module, nn.Module]) -> None:
    model, seen = nn.Sequential(*copy.deepcopy(trained)), []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]) if module.training else None)
    recipe = replace(SHORT, stages=(eq.Stage("everything", 10),), turn=turn)
    eq.tune(model, TRAIN, VALIDATION, recipe, group="C4")
    upright = {tuple(x.flatten().tolist()) for x in TRAIN[0]}
    shares = [
        sum(tuple(x.rot90(k, (1, 2)).flatten().tolist()) in upright for x in torch.cat(seen)) / 320 for k in range(4)
    ]
    assert sum(shares) == 1
    assert shares == [1, 0, 0, 0] if not turn else min(shares) > 0.15


# Stopping ------------------------------------------------------------------------------------------------


def test_a_stage_ends_at_its_best_and_stops_early(wrapper: eq.LambdaEquitune) -> None:
    ruinous = replace(SHORT, stages=(eq.Stage("everything", 200, 30.0, "sgd"),), validate_every=1, patience=3)
    before = state(wrapper)
    result = eq.tune(wrapper, TRAIN, VALIDATION, ruinous)
    scores = [(r.validation_accuracy, -r.validation_loss) for r in result.history]
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 3
    if best == 0:
        assert changed(wrapper, before) == set()


class Stop(Exception):  # noqa: N818 - what a user's Ctrl-C does
    pass


@pytest.mark.parametrize("stop_at", [3, 17, 25, 33])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_stopped_tuning_goes_on_to_the_same_bits(
    wrapper: eq.LambdaEquitune, tmp_path: Path, stop_at: int, optimizer: Any
) -> None:
    stages = (eq.Stage("weights", 20, 0.01, optimizer), eq.Stage("everything", 20, 1e-3, optimizer))
    recipe = replace(SHORT, stages=stages, validate_every=5)
    straight, stopped = copy.deepcopy(wrapper), copy.deepcopy(wrapper)
    expected = eq.tune(straight, TRAIN, VALIDATION, recipe)
    steps: list[int] = []

    def stop(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        steps.append(done)
        if len(steps) == stop_at:
            raise Stop

    flags = [p.requires_grad for p in stopped.parameters()]
    with pytest.raises(Stop):
        eq.tune(stopped, TRAIN, VALIDATION, recipe, folder=tmp_path, progress=stop)
    assert [p.requires_grad for p in stopped.parameters()] == flags
    again = copy.deepcopy(wrapper)
    result = eq.tune(again, TRAIN, VALIDATION, recipe, folder=tmp_path)
    assert result.history == expected.history
    for name, tensor in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    third = copy.deepcopy(wrapper)
    assert eq.tune(third, TRAIN, VALIDATION, recipe, folder=tmp_path).history == expected.history
    assert torch.equal(third(TEST[0]), again(TEST[0]))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_checkpoint_of_another_tuning_or_a_damaged_one_is_refused(wrapper: eq.LambdaEquitune, tmp_path: Path) -> None:
    eq.tune(wrapper, TRAIN, VALIDATION, SHORT, folder=tmp_path)
    with pytest.raises(eq.InputError, match="another recipe, group or model"):
        eq.tune(wrapper, TRAIN, VALIDATION, replace(SHORT, seed=1), folder=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    before = state(wrapper)
    with pytest.raises(eq.InputError, match="damaged.*delete it"):
        eq.tune(wrapper, TRAIN, VALIDATION, SHORT, folder=tmp_path)
    assert changed(wrapper, before) == set()


def test_a_failed_write_leaves_the_old_checkpoint(
    wrapper: eq.LambdaEquitune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if done == 15:
            raise Stop

    with pytest.raises(Stop):
        eq.tune(wrapper, TRAIN, VALIDATION, SHORT, folder=tmp_path, progress=stop)
    old = (tmp_path / "checkpoint.safetensors").read_bytes()

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        eq.tune(wrapper, TRAIN, VALIDATION, SHORT, folder=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_modes_flags_and_random_state_are_put_back(wrapper: eq.LambdaEquitune) -> None:
    wrapper.eval()
    wrapper.head.requires_grad_(False)
    random_state = torch.get_rng_state()
    eq.tune(wrapper, TRAIN, VALIDATION, SHORT)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module.training for module in wrapper.modules())
    assert not any(p.requires_grad for p in wrapper.head.parameters())
    assert all(p.requires_grad for p in wrapper.network.parameters())


# Bad input -----------------------------------------------------------------------------------------------


def test_bad_data_recipes_and_parts(wrapper: eq.LambdaEquitune) -> None:
    x, labels = TRAIN
    with pytest.raises(eq.InputError, match=r"train has images \(64, 1, 4, 4\) and labels torch.int64 \(63,\)"):
        eq.tune(wrapper, (x, labels[:-1]), VALIDATION)
    with pytest.raises(eq.InputError, match="validation is empty"):
        eq.tune(wrapper, TRAIN, (x[:0], labels[:0]))
    with pytest.raises(eq.InputError, match="train must be"):
        eq.tune(wrapper, x, VALIDATION)  # type: ignore[arg-type]
    with pytest.raises(eq.InputError, match="unknown recipe 'lambda': choose 'fit_head', 'lambda_only'"):
        eq.tune(wrapper, TRAIN, VALIDATION, "lambda")
    with pytest.raises(eq.InputError, match="no λ or score network"):
        eq.tune(eq.Equitune(wrapper.model, "C4"), TRAIN, VALIDATION, "lambda_only")
    with pytest.raises(eq.InputError, match="take_off_head"):
        eq.tune(eq.Equitune(wrapper.model, "C4"), TRAIN, VALIDATION, "head_only")
    with pytest.raises(eq.InputError, match="holds 2 wrappers"):
        eq.tune(nn.Sequential(wrapper, eq.Equitune(TinyUNet(), "C4")), TRAIN, VALIDATION)
    for options in ({"train": "lambda"}, {"train": "head", "optimizer": "adam"}, {"train": "head", "steps": 0}):
        with pytest.raises(eq.InputError, match="must be at least 1|is one of"):
            eq.Stage(**options)  # type: ignore[arg-type]
    with pytest.raises(eq.InputError, match="at least one stage"):
        eq.Recipe(())
    with pytest.raises(eq.InputError, match="patience"):
        eq.Recipe((eq.Stage("head"),), patience=0)


def test_a_loss_that_explodes_leaves_the_best_model(wrapper: eq.LambdaEquitune) -> None:
    before = state(wrapper)
    recipe = replace(SHORT, stages=(eq.Stage("everything", 60, 1e30, "sgd"),), validate_every=50)
    with pytest.raises(eq.InputError, match="NaN|inf|nan|not finite"):
        eq.tune(wrapper, TRAIN, VALIDATION, recipe)
    assert changed(wrapper, before) == set()


def test_a_plain_model_whose_loss_explodes_says_so() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    before = state(model)
    recipe = replace(SHORT, stages=(eq.Stage("everything", 60, 3e38, "sgd"),), validate_every=50)
    with pytest.raises(
        eq.InputError, match=r"the loss became \w+ at step \d+ of stage 0 \(everything\): lower its lear"
    ):
        eq.tune(model, TRAIN, VALIDATION, recipe, group="C4")
    assert changed(model, before) == set()


# Results -------------------------------------------------------------------------------------------------


def test_table_picture_and_json(wrapper: eq.LambdaEquitune, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dataset = torch.utils.data.TensorDataset(*TEST)
    result = eq.tune(wrapper, TRAIN, VALIDATION, SHORT, test=dataset)
    assert result.table().splitlines()[0] == "| | untransformed | transformed | passes |"
    assert "| after | 100.00 % | 100.00 % | 4.00 |" in result.table()
    result.plot(tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").read_bytes()[:4] == b"\x89PNG"
    eq.tune(wrapper, TRAIN, VALIDATION, SHORT).plot(tmp_path / "course.svg")
    result.save(tmp_path / "tuning.json")
    read = json.loads((tmp_path / "tuning.json").read_text())
    assert read["after"]["weights"].keys() == {"e", "r90", "r180", "r270"}
    assert len(read["history"]) == len(result.history)


def test_every_recipe_has_stages() -> None:
    for name, recipe in RECIPES.items():
        assert as_recipe(name) is recipe
    assert [stage.train for stage in RECIPES["published_lambda_then_everything"].stages] == ["weights", "everything"]


def test_evaluation_turns_the_same_way_every_time() -> None:
    """The model reads off which corner is bright, so its turned accuracy is the share of images not moved."""
    corners = torch.zeros(200, 1, 2, 2)
    labels = torch.arange(200) % 4
    corners.flatten(1)[torch.arange(200), labels] = 1
    data, seeds = (corners, labels), range(5)
    found = [eq.evaluate(nn.Flatten(), data, "C4", seed=seed) for seed in seeds]
    assert found == [eq.evaluate(nn.Flatten(), data, "C4", seed=seed, batch_size=7) for seed in seeds]
    assert {e.upright for e in found} == {1.0}
    assert len({e.turned for e in found}) > 1
    assert sum(e.turned for e in found) / 5 == pytest.approx(1 / 4, abs=0.08)
    assert eq.evaluate(nn.Flatten(), data, "C1").turned == 1


def side_network(trained: tuple[nn.Module, nn.Module]) -> tuple[nn.Module, list[nn.Parameter]]:
    """A wrapped frozen network, a trained one that reads it, and a head; and what is trained."""
    features, head = copy.deepcopy(trained)
    side = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 12))
    model = nn.Sequential(eq.Equitune(nn.Sequential(features, nn.ReLU(), side), "C4"), head).double()
    return model, [*side.parameters(), *head.parameters()]


def test_what_is_frozen_of_a_model_is_run_once(trained: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    train, validation = [(x.double(), labels) for x, labels in (TRAIN, VALIDATION)]
    recipe = eq.Recipe((eq.Stage("head", steps=20, learning_rate=0.01),), batch_size=32, validate_every=10)
    models, passes = [], []
    for cache in (True, False):
        torch.manual_seed(1)
        model, chosen = side_network(trained)
        before = state(model)
        model[0].model[0].register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))  # type: ignore[index, union-attr]
        eq.tune(
            model, train, validation, replace(recipe, cache=cache), parts={"head": chosen}, folder=tmp_path / str(cache)
        )
        models.append(model)
        if cache:
            assert sum(passes) == 4 * (64 + 32)
        assert changed(model[0].model[2], {n.removeprefix("0.model.2."): t for n, t in before.items()}) == {"0", "2"}  # type: ignore[index, union-attr]
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())
    again, chosen = side_network(trained)
    eq.tune(again, train, validation, recipe, parts={"head": chosen}, folder=tmp_path / "True")
    torch.testing.assert_close(again.state_dict(), models[0].state_dict(), rtol=0, atol=0)


def test_a_cache_ends_where_training_begins(trained: tuple[nn.Module, nn.Module]) -> None:
    model, chosen = side_network(trained)
    model.requires_grad_(False)
    assert frozen_modules(model[0].model) == 3  # type: ignore[index, union-attr, arg-type]
    chosen[0].requires_grad_(True)
    assert frozen_modules(model[0].model) == 1  # type: ignore[index, union-attr, arg-type]
    assert frozen_modules(nn.Sequential(nn.Flatten(), nn.Linear(2, 2))) == 0
    assert frozen_modules(nn.Flatten()) == 1


def test_a_cache_holds_one_tensor_of_an_image() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(eq.InputError, match="must be one tensor.*cache=False"):
        cache_views(eq.Equitune(Pair(), "C4"), TRAIN, 8)
