"""The laws of adapters, merge rules, loss terms and selection rules, for authors of extensions too.

    from continual.testing.kinds import check_adapter

    def test_my_adapter():
        check_adapter(MyAdapter(rank=2))

Each raises AssertionError that says what is broken. Nothing here needs pytest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from continual.adapters.bank import TrainableAdapter, grouped, one, per_image, serve, shared, stacked
from continual.adapters.base import AdapterKind, Adapters, Shapes, Weights
from continual.losses.base import Batch, LossTerm
from continual.merging.base import merged
from continual.seeding import generator
from continual.statistics.fields import pack, unpack
from continual.testing.assertions import expect

SHAPES = Shapes(depth=2, width=8)


def _at_block(block: int, h: Tensor, adapters: Adapters) -> Tensor:
    return adapters(block, h)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, atol=1e-5))


def check_adapter(kind: AdapterKind) -> None:
    """A new adapter adds nothing; alone, per image, in groups and from a file an adapter does the same; it trains."""
    h = torch.randn(5, 3, SHAPES.width, generator=generator(0, "tokens"))
    new = kind.new(SHAPES, generator(0, "new"))
    expect(all(torch.equal(new[n], t) for n, t in kind.new(SHAPES, generator(0, "new")).items()), "it draws otherwise")
    expect(all(len(tensor) == SHAPES.depth for tensor in new.values()), "a tensor has no leading axis over the blocks")
    expect(kind.numbers(SHAPES) == sum(tensor.numel() for tensor in new.values()), "its numbers are miscounted")
    for block in range(SHAPES.depth):
        expect(not shared(kind, new)(block, h).any(), "a new adapter adds something")
    trained = [_drawn(new, k) for k in range(3)]
    bank, chosen = stacked(trained), torch.tensor([2, 0, 1, 0, 2])
    order = chosen.argsort(stable=True)
    for block in range(SHAPES.depth):
        alone = torch.cat([shared(kind, trained[k])(block, h[i : i + 1]) for i, k in enumerate(chosen.tolist())])
        expect(_close(per_image(kind, bank, chosen)(block, h), alone), "one per image is not one at a time")
        expect(
            _close(grouped(kind, bank, chosen[order])(block, h[order]), alone[order]), "groups are not one at a time"
        )
        many, rows = h.repeat(5, 1, 1), chosen.repeat(5)
        served = serve(kind, partial(_at_block, block), many, bank, rows)
        expect(_close(served, alone.repeat(5, 1, 1)), "what is served is not one at a time")
        expect(
            torch.equal(shared(kind, one(bank, 1))(block, h), shared(kind, trained[1])(block, h)), "a bank changes it"
        )
    again = unpack(Weights, *pack(trained[0]))
    expect(all(torch.equal(again[name], tensor) for name, tensor in trained[0].items()), "a file changes it")
    _check_training(kind, trained[0], h)


def _check_training(kind: AdapterKind, weights: Weights, h: Tensor) -> None:
    adapter = TrainableAdapter(kind, weights)
    kept = adapter.frozen()
    sum(adapter.bind()(block, h).square().sum() for block in range(SHAPES.depth)).backward()  # type: ignore[union-attr]
    idle = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    expect(not idle, f"no gradient reaches {idle}")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1)
    expect(all(torch.equal(kept[name], tensor) for name, tensor in weights.items()), "training reaches a frozen copy")
    masks = adapter.masks(len(h), h.shape[1], generator(1))
    expect((masks is None) == (kind.dropout == 0), "masks are drawn if, and only if, there is dropout")
    if masks is not None:
        noisy, still = adapter.bind(masks)(0, h), adapter.bind()(0, h)
        expect(not torch.equal(noisy, still), "dropout does nothing")


def _drawn(like: Weights, key: int) -> dict[str, Tensor]:
    return {name: torch.randn(t.shape, generator=generator(key, name)) for name, t in like.items()}


def check_merge_rule(name: str, **settings: Any) -> None:
    """What never left its start stays there; a rule changes nothing it is given, and gives the same twice."""
    shape = {"a": torch.zeros(3, 2), "b": torch.zeros(4)}
    start = _drawn(shape, 0)
    stayed = merged(name, [start, start, start], start, **settings)
    expect(all(_close(stayed[n], tensor) for n, tensor in start.items()), "adapters at their start merge elsewhere")
    stacks = [_drawn(shape, k) for k in (1, 2, 3)]
    found = merged(name, stacks, start, **settings)
    expect({n: t.shape for n, t in found.items()} == {n: t.shape for n, t in shape.items()}, "names or shapes changed")
    expect(all(bool(torch.isfinite(tensor).all()) for tensor in found.values()), "a merge is not finite")
    again = merged(name, stacks, start, **settings)
    expect(all(torch.equal(found[n], again[n]) for n in found), "it merges otherwise the second time")
    expect(all(torch.equal(stacks[k][n], _drawn(shape, k + 1)[n]) for k in range(3) for n in shape), "it writes")


def check_loss_term(make: Callable[[], LossTerm], **extra: Tensor) -> None:
    """A term is one finite number whose gradient reaches features or logits, and no class that is not active.

    `extra` are tensors (6, ...) that the term finds in the batch beside what it observes itself.
    """
    term, draw = make(), generator(0, "batch")
    features = torch.randn(6, 8, generator=draw, requires_grad=True)
    logits = torch.randn(6, 4, generator=draw, requires_grad=True)
    active = torch.tensor([False, True, True, True])
    observed = {**extra, **term.observe(torch.randn(6, 3, 16, 16, generator=draw))}
    given = {name: tensor.clone().requires_grad_() for name, tensor in observed.items()}
    loss = term(Batch(features, logits, torch.tensor([1, 2, 3, 1, 2, 3]), active, given))
    expect(loss.shape == () and bool(torch.isfinite(loss)), f"the term is {loss}, not one finite number")
    reached = torch.autograd.grad(loss, [features, logits, *given.values()], allow_unused=True)
    expect(any(gradient is not None and bool(gradient.any()) for gradient in reached), "no gradient leaves the term")
    expect(term.weight >= 0, "a weight is negative")


def check_selection_rule(rule: Callable[[Tensor, int, torch.Generator], Tensor]) -> None:
    """Indices differ, fewer are the first of more, and the same generator gives the same."""
    features = torch.randn(9, 5, generator=generator(0, "features"))
    whole = rule(features, 9, generator(1)).tolist()
    expect(sorted(whole) == list(range(9)), f"all nine are {whole}")
    for count in range(1, 9):
        fewer = rule(features, count, generator(1)).tolist()
        expect(fewer == whole[:count], f"{count} of nine are {fewer}, which are not the first of {whole}")
