"""AdaLoRA's budget: how it falls, what it leaves, and that peft's allocator does the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from continual.adapters.adalora import AdaLoRA, RankAllocation
from continual.adapters.bank import TrainableAdapter
from continual.adapters.base import Shapes
from continual.adapters.lora import LoRA
from continual.methods.finetune import FinetuneLearner
from continual.seeding import generator
from continual.testing import coloured_squares, tiny_backbone

SHAPES = Shapes(5, 16, 48)  #: four blocks that are adapted
STEPS = 200


def planted() -> Tensor:
    """Changes of the blocks' weights (4, 48, 16), of ranks 4, 0, 1 and 0, and a little noise."""
    draw = generator(0, "planted")
    ranks = (4, 0, 1, 0)
    parts = [torch.randn(48, rank, generator=draw) @ torch.randn(rank, 16, generator=draw) for rank in ranks]
    return torch.stack(parts) + 0.05 * torch.randn(4, 48, 16, generator=draw)


def distance(weights: Mapping[str, Tensor], target: Tensor) -> Tensor:
    made = weights["lora_B"] @ (weights["lora_E"] * weights["lora_A"])
    return (made - target).square().mean()


def trained(kind: AdaLoRA, steps: int = STEPS) -> tuple[TrainableAdapter, RankAllocation]:
    adapter, target = TrainableAdapter(kind, kind.new(SHAPES, generator(1))), planted()
    parameters = dict(adapter.named_parameters())
    regulation, optimizer = kind.regulation(parameters, steps), torch.optim.Adam(adapter.parameters(), lr=0.05)
    assert regulation is not None
    for _ in range(steps):
        optimizer.zero_grad()
        (distance(parameters, target) + regulation.penalty()).backward()
        optimizer.step()
        regulation.after_step()
    return adapter, regulation


def test_a_planted_change_draws_the_budget() -> None:
    kind = AdaLoRA(rank=2, initial=6)
    adapter, _ = trained(kind)
    values = adapter.weights()["lora_E"].flatten(1)
    ranks = (values != 0).sum(1).tolist()
    assert sum(ranks) == 2 * 4
    assert ranks[0] >= 4
    assert ranks[2] >= 1
    kept = adapter.frozen()
    assert kept["place"].sum(1).tolist() == ranks
    own = torch.randn(48, 16, generator=generator(3))
    for block in range(4):
        given = {name: tensor[block] for name, tensor in adapter.weights().items()}
        small = {"reading": kept["reading"], "writing": kept["writing"], "place": kept["place"][block]}
        torch.testing.assert_close(kind.attention(small, own), kind.attention(given, own))


def test_a_finished_adapter_is_as_small_as_a_lora_of_its_rank() -> None:
    kind = AdaLoRA(rank=2, initial=6)
    bookkeeping = 4 * 8  # whose each of eight rows is
    assert kind.numbers(SHAPES) == LoRA(rank=2).numbers(SHAPES) + bookkeeping
    assert kind.numbers(SHAPES) < sum(t.numel() for t in kind.new(SHAPES, None).values()) / 2


def test_the_budget_falls_with_the_third_power() -> None:
    regulation = AdaLoRA(rank=2, initial=6).regulation(AdaLoRA(rank=2, initial=6).new(SHAPES, None), STEPS)
    assert regulation is not None
    budgets = [regulation.budget(step) for step in range(1, STEPS + 1)]
    assert {count for count, _ in budgets[:30]} == {24}
    assert budgets[STEPS - 60 :] == [(8, True)] * 60
    for step in range(31, 141):
        expected = int(16 * (1 - (step - 30) / 110) ** 3 + 8)
        assert budgets[step - 1] == (expected, step % 10 == 0)


def test_factors_become_orthogonal() -> None:
    reading = trained(AdaLoRA(rank=2, initial=6, orthogonality=3.0))[0].weights()["lora_A"]
    apart = (reading @ reading.mT - torch.eye(6)).abs().max()
    loose = trained(AdaLoRA(rank=2, initial=6, orthogonality=0.0))[0].weights()["lora_A"]
    assert float(apart) < 0.2
    assert float((loose @ loose.mT - torch.eye(6)).abs().max()) > 0.5


def test_with_nothing_to_give_up_it_is_a_lora_with_a_diagonal() -> None:
    adapter, _ = trained(AdaLoRA(rank=3, initial=3, orthogonality=0.0))
    assert bool(adapter.weights()["lora_E"].all())
    parameters = {
        n: t.clone().requires_grad_() for n, t in AdaLoRA(rank=3, initial=3).new(SHAPES, generator(1)).items()
    }
    optimizer = torch.optim.Adam(parameters.values(), lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        distance(parameters, planted()).backward()
        optimizer.step()
    assert all(torch.equal(adapter.weights()[name], tensor) for name, tensor in parameters.items())


def test_a_training_too_short_for_a_budget_keeps_what_it_learned() -> None:
    adapter, regulation = trained(AdaLoRA(rank=2, initial=6), steps=1)
    assert adapter.weights()["lora_E"].any()
    assert regulation.budget(1) == (8, True)


def test_ranks_stay_once_they_are_chosen() -> None:
    learner = FinetuneLearner(
        tiny_backbone(), epochs=3, batch_size=4, adapter="adalora", adapter_args={"rank": 2, "initial": 4}
    )
    learner.learn(*coloured_squares([0, 1], 6))
    first = learner.state.stack
    learner.learn(*coloured_squares([2, 3], 6))
    then = learner.state.stack
    assert first is not None
    assert then is not None
    assert torch.equal(first["place"], then["place"])
    assert not torch.equal(first["writing"], then["writing"])


def test_once_ranks_are_chosen_it_trains_at_the_rate_of_a_lora() -> None:
    learner = FinetuneLearner(tiny_backbone(), epochs=1, batch_size=4, lr=0.1, adapter="adalora")
    rates = []
    for classes in ([0, 1], [2, 3]):
        training = learner.start_training(learner._given(*coloured_squares(classes, 6), None))
        rates.append(training.parameter_groups()[0]["lr"])
        learner.learn(*coloured_squares(classes, 6))
    assert rates == pytest.approx([0.6, 0.1 * LoRA().lr_scale])


def test_peft_s_allocator_does_the_same() -> None:
    layer = pytest.importorskip("peft.tuners.adalora.layer")
    peft = pytest.importorskip("peft")
    kind, target = AdaLoRA(rank=2, initial=6), planted()
    begin = kind.new(SHAPES, generator(1))

    class Block(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            for name, tensor in begin.items():
                self.register_module(name, nn.ParameterDict({"stack": nn.Parameter(tensor[number].clone())}))

    theirs = nn.ModuleList(Block(number) for number in range(4))
    config = peft.AdaLoraConfig(
        init_r=6,
        target_r=2,
        tinit=30,
        tfinal=60,
        deltaT=10,
        beta1=0.85,
        beta2=0.85,
        total_step=STEPS,
        peft_type="ADALORA",
    )
    allocator = layer.RankAllocator(theirs, config, "stack")
    adapter = TrainableAdapter(kind, begin)
    ours = dict(adapter.named_parameters())
    regulation = kind.regulation(ours, STEPS)
    assert regulation is not None
    optimizers = [torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.9) for module in (adapter, theirs)]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(block, name)["stack"] for block in theirs])

    for step in range(1, STEPS + 1):
        for optimizer in optimizers:
            optimizer.zero_grad()
        distance(ours, target).backward()
        distance({name: stacked(name) for name in begin}, target).backward()
        for optimizer in optimizers:
            optimizer.step()
        regulation.after_step()
        budget, _ = allocator.update_and_allocate(theirs, step)
        assert budget == regulation.budget(step)[0]
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor.data, stacked(name), atol=1e-5, rtol=1e-4)
    assert int((ours["lora_E"] != 0).sum()) == 8


def test_hut_is_peft_s_hira_on_the_same_factors() -> None:
    peft = pytest.importorskip("peft")
    from continual.adapters.hut import HUT

    kind, layer = HUT(rank=3), nn.Sequential(nn.Linear(16, 48))
    model = peft.get_peft_model(layer, peft.HiraConfig(r=3, target_modules=["0"], hira_dropout=0.0))
    weights = {n: torch.randn(t[0].shape, generator=generator(5, n)) for n, t in kind.new(SHAPES, None).items()}
    own, tuned = layer[0].weight.data if isinstance(layer[0], nn.Linear) else None, model.base_model.model[0]
    own = tuned.get_base_layer().weight.data if own is None else own
    with torch.no_grad():
        tuned.hira_A["default"].copy_(weights["reading"])
        tuned.hira_B["default"].copy_(weights["writing"])
        x = torch.randn(4, 16, generator=generator(6))
        expected = tuned.eval()(x) - tuned.get_base_layer().bias
        scale = getattr(tuned, "scaling", {"default": 1.0})
        assert not isinstance(scale, dict) or scale.get("default", 1.0) == 1.0
        torch.testing.assert_close(x @ kind.attention(weights, own).mT, expected, atol=1e-4, rtol=1e-4)
