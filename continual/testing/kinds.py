"""The laws of adapters, merge rules, loss terms and selection rules, for authors of extensions too.

    from continual.testing.kinds import check_adapter

    def test_my_adapter():
        check_adapter(MyAdapter(rank=2))

Each raises AssertionError that says what is broken. Nothing here needs pytest.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from continual.adapters.bank import TrainableAdapter, completed, grouped, one, per_image, serve, shared, stacked
from continual.adapters.base import AdapterKind, Weights
from continual.backbones.base import FrozenBackbone
from continual.losses.base import Batch, LossTerm
from continual.merging.base import merged
from continual.seeding import generator
from continual.statistics.fields import pack, unpack
from continual.testing.assertions import expect
from continual.testing.cases import tiny_backbone


def check_adapter(kind: AdapterKind) -> None:
    """A new adapter adds nothing; alone, per image, in groups and from a file an adapter does the same; it trains.

    Where it is linear in what later adapters train, the mean of adapters is the mean of what they do.
    """
    frozen = tiny_backbone().frozen
    images = torch.randn(5, 3, *frozen.image_size, generator=generator(0, "images"))
    with torch.no_grad():
        trained = _check_serving(kind, frozen, images)
    again = unpack(Weights, *pack(trained[0]))
    expect(all(torch.equal(again[name], tensor) for name, tensor in trained[0].items()), "a file changes it")
    _check_merging(kind, trained)
    for weights in (trained[0], _drawn(kind.new(frozen.shapes, generator(0, "new")), 0)):
        _check_training(kind, weights, frozen, images)


def _check_serving(kind: AdapterKind, frozen: FrozenBackbone, images: Tensor) -> list[dict[str, Tensor]]:
    """Check one to five images under new and trained adapters, and return three of these."""
    shapes = frozen.shapes
    new, other = (kind.new(shapes, generator(0, "new")) for _ in range(2))
    expect(all(torch.equal(new[name], tensor) for name, tensor in other.items()), "it draws otherwise")
    blocks = shapes.depth - kind.first_block
    long = [len(tensor) == blocks for name, tensor in new.items() if name not in kind.whole]
    expect(kind.acts("after") or all(long), "a tensor has no leading axis over the blocks")
    kept = kind.finished(new)
    expect(kind.numbers(shapes) == sum(tensor.numel() for tensor in kept.values()), "its numbers are miscounted")
    expect(kind.reading <= kept.keys(), "what later adapters share is not there")
    stem, alone = frozen.stem(images, reads=kind.reads), frozen.features(images)
    for begun in (new, kept):
        expect(_close(frozen.features(stem, shared(kind, begun)), alone), "a new adapter adds something")
    trained = [kind.finished(_drawn(new, k)) for k in range(3)]
    bank, chosen = stacked(trained), torch.tensor([2, 0, 1, 0, 2])
    order, places = chosen.argsort(stable=True), torch.arange(5)
    each = zip(places.split(1), chosen.tolist(), strict=True)
    one_by_one = torch.cat([frozen.features(stem[row], shared(kind, trained[k])) for row, k in each])
    expect(not torch.allclose(one_by_one, alone, atol=1e-3), "a trained adapter does nothing")
    together = frozen.features(stem, per_image(kind, bank, chosen))
    expect(_close(together, one_by_one), "one per image is not one at a time")
    in_groups = frozen.features(stem[order], grouped(kind, bank, chosen[order]))
    expect(_close(in_groups, one_by_one[order]), "groups are not one at a time")
    rows = places.repeat(5)
    served = serve(kind, frozen.features, stem[rows], bank, chosen[rows])
    expect(_close(served, one_by_one[rows]), "what is served is not one at a time")
    pairs = stem[torch.tensor([0, 1, 2, 0])].of_views(2, None)
    found = frozen.features(pairs, per_image(kind, bank, torch.tensor([2, 1])))
    views = [(0, 2), (1, 2), (2, 1), (0, 1)]
    apart = torch.cat([frozen.features(stem[places[[row]]], shared(kind, trained[k])) for row, k in views])
    expect(_close(found, apart), "views of an image are not served by its adapter")
    same = frozen.features(stem, shared(kind, one(bank, 1))), frozen.features(stem, shared(kind, trained[1]))
    expect(torch.equal(*same), "a bank changes it")
    return trained


def _check_merging(kind: AdapterKind, trained: list[dict[str, Tensor]]) -> None:
    """Adapters that share what they read are functions whose mean is that of their mean."""
    if not kind.reading:
        return
    bank = completed([trained[0], *({n: t for n, t in own.items() if n not in kind.reading} for own in trained[1:])])
    middle = merged("mean", bank, only=trained[0].keys() - kind.reading)
    block, draw = kind.first_block, generator(0, "tokens")
    h, own = torch.randn(2, 3, 32, generator=draw), torch.randn(96, 32, generator=draw)

    def does(weights: Weights) -> Tensor:
        adapters = shared(kind, weights)
        return adapters.attention(block, own) if adapters.attention else adapters(block, h)

    expect(_close(does(middle), torch.stack([does(weights) for weights in bank]).mean(0)), "its mean is not a mean")


def _check_training(kind: AdapterKind, weights: Weights, frozen: FrozenBackbone, images: Tensor) -> None:
    adapter = TrainableAdapter(kind, weights)
    kept, given = adapter.frozen(), {name: tensor.clone() for name, tensor in kind.finished(weights).items()}
    frozen.features(images, adapter.bind()).square().sum().backward()
    idle = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    expect(not idle, f"no gradient reaches {idle}")
    expect(all(p.grad is None for p in frozen.parameters()), "gradients reach the backbone")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1)
    expect(all(torch.equal(kept[name], tensor) for name, tensor in given.items()), "training reaches a frozen copy")
    stem = frozen.stem(images)
    masks = adapter.masks(len(images), stem.h.shape[1], generator(1))
    expect((masks is None) == (kind.dropout == 0), "masks are drawn if, and only if, there is dropout")
    if masks is not None:
        noisy, still = adapter.bind(masks)(0, stem.h), adapter.bind()(0, stem.h)
        expect(not torch.equal(noisy, still), "dropout does nothing")
    later = TrainableAdapter(kind, given, kind.reading)
    expect(later.frozen().keys() == given.keys() - kind.reading, "a later adapter holds what it shares")


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, atol=2e-5, rtol=1e-4))


def _drawn(like: Weights, key: int) -> dict[str, Tensor]:
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator(key, name)) for name, tensor in like.items()
    }


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
