"""Each kind of adapter against its formula, written down here, and the numbers it holds."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from continual import adapters
from continual.adapters.adalora import AdaLoRA
from continual.adapters.bank import per_image, shared, stacked
from continual.adapters.base import AdapterKind, Shapes, Weights, read_blocks
from continual.adapters.bottleneck import Bottleneck
from continual.adapters.compacter import Compacter, kronecker_sum
from continual.adapters.hut import HUT
from continual.adapters.ladder import Ladder
from continual.adapters.lora import LoRA
from continual.backbones.vit import FrozenViT
from continual.errors import InputError
from continual.seeding import generator

#: ViT-B/16, and a ViT-S of 11 blocks
BASE, SMALL = Shapes(12, 768, 2304), Shapes(11, 384, 1152)


def vit(depth: int = 4, **options: object) -> FrozenViT:
    torch.default_generator.manual_seed(0)
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": depth, "num_heads": 2, "num_classes": 0}
    return FrozenViT(timm.create_model("vit_tiny_patch16_224", **{**arguments, **options})).double()


def drawn(kind: AdapterKind, shapes: Shapes, key: int = 0) -> dict[str, Tensor]:
    new = kind.new(shapes, generator(0))
    return {n: (t + 0.1 * torch.randn(t.shape, generator=generator(key, n))).double() for n, t in new.items()}


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "shapes", "numbers"),
    [
        (Bottleneck(), BASE, 304_320),
        (Bottleneck(), SMALL, 139_568),
        (Bottleneck(bottleneck=1), SMALL, 12_683),
        (Compacter(), BASE, 28_576),
        (Compacter(), SMALL, 13_528),
        (LoRA(), BASE, 270_336),
        (LoRA(), SMALL, 122_880),
        (HUT(), SMALL, 122_880),
        (Ladder(), SMALL, 224_404),
    ],
    ids=str,
)
def test_a_kind_holds_as_many_numbers_as_it_says(kind: AdapterKind, shapes: Shapes, numbers: int) -> None:
    assert kind.numbers(shapes) == numbers


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [(Compacter(), 11 * 2 * 384), (LoRA(), 92_160), (HUT(), 92_160), (Bottleneck(), 139_568)],
    ids=str,
)
def test_a_later_adapter_of_a_method_that_merges_holds_what_is_trained(kind: AdapterKind, numbers: int) -> None:
    assert sum(t.numel() for n, t in kind.new(SMALL, None).items() if n not in kind.reading) == numbers


@pytest.mark.parametrize("place", ["down", "up"])
def test_compacter_s_layers_are_the_literal_sum_of_kronecker_products(place: str) -> None:
    kind = Compacter(n=4, width=24, rank=2)
    weights = {name: t if name == "mix" else t[1] for name, t in drawn(kind, Shapes(2, 32)).items()}
    s, u = weights[f"{place}_s"], weights[f"{place}_u"]
    literal = sum(torch.kron(weights["mix"][i], s[i] @ u[i]) for i in range(4))
    assert isinstance(literal, Tensor)
    found = kronecker_sum(weights["mix"], s, u).mT
    assert found.shape == ((32, 24) if place == "down" else (24, 32))
    torch.testing.assert_close(found, literal)
    # Applied factor by factor, without the sum.
    x = torch.randn(5, len(literal), dtype=torch.float64, generator=generator(2))
    y = torch.einsum("cap,iab,ipk,ikq->cbq", x.unflatten(1, (4, -1)), weights["mix"], s, u).flatten(1)
    torch.testing.assert_close(x @ found, y)


def test_compacter_adds_what_its_formula_says() -> None:
    kind, h = Compacter(width=8, adapter_scale=0.3), torch.randn(2, 5, 32, dtype=torch.float64, generator=generator(3))
    weights = drawn(kind, Shapes(2, 32))
    own = {name: t if name == "mix" else t[1] for name, t in weights.items()}
    down, up = (
        sum(torch.kron(own["mix"][i], own[f"{p}_s"][i] @ own[f"{p}_u"][i]) for i in range(4)) for p in ("down", "up")
    )
    expected = 0.3 * (torch.nn.functional.gelu(h @ down + own["down_bias"]) @ up + own["up_bias"])
    torch.testing.assert_close(shared(kind, weights)(1, h), expected)


@pytest.mark.parametrize("kind", [LoRA(rank=3, scale=0.7), HUT(rank=3, scale=0.7)], ids=str)
@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_changed_attention_is_a_vit_with_changed_weights(kind: AdapterKind, depth: int, pool: str) -> None:
    frozen = vit(depth, global_pool=pool, class_token=pool == "token")
    weights = drawn(kind, frozen.shapes)
    with torch.no_grad():
        before = {n: p.clone() for n, p in frozen.network.named_parameters()}
        alone = frozen.features(images())
        found = frozen.features(images(), shared(kind, weights))
        for block in range(1, depth):
            product = 0.7 * weights["writing"][block - 1] @ weights["reading"][block - 1]
            own = frozen.network.blocks[block].attn.qkv.weight
            own.copy_(own * (1 + product) if isinstance(kind, HUT) else own + product)
        merged = frozen.network.forward_head(frozen.network.forward_features(images()), pre_logits=True)
        torch.testing.assert_close(found, merged, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(found, alone, atol=1e-3)
        untouched = [n for n, p in frozen.network.named_parameters() if torch.equal(p, before[n])]
    assert len(before) - len(untouched) == depth - 1
    assert "blocks.0.attn.qkv.weight" in untouched


@pytest.mark.parametrize("targets", ["qkv", "qv", "k"])
@pytest.mark.parametrize("kind", [LoRA, HUT, AdaLoRA])
def test_targets_are_rows_of_the_weight(kind: type[LoRA | HUT | AdaLoRA], targets: Any) -> None:
    own = torch.randn(96, 32, dtype=torch.float64, generator=generator(3)).abs() + 1
    small = kind(rank=2, scale=0.5, targets=targets)
    bank = [small.finished(drawn(small, Shapes(3, 32, 96), key)) for key in (1, 2)]
    changed = [shared(small, weights).attention(2, own) - own for weights in bank]  # type: ignore[misc]
    for number, name in enumerate("qkv"):
        assert bool(changed[0].chunk(3)[number].any()) == (name in targets)
    assert len(bank[0]["writing"].flatten()) == len(targets) / 3 * len(
        kind(rank=2).finished(drawn(kind(rank=2), Shapes(3, 32, 96)))["writing"].flatten()
    )
    each = per_image(small, stacked(bank), torch.tensor([1, 0])).attention(2, own)  # type: ignore[misc]
    torch.testing.assert_close(each - own, torch.stack(changed[::-1]))
    with pytest.raises(InputError, match="as many rows of queries as of keys.*bottleneck"):
        small.check(Shapes(3, 32, 64))


@pytest.mark.parametrize("kind", [LoRA(rank=3), HUT(rank=3)], ids=str)
def test_attention_of_another_kind_is_changed_as_well(kind: AdapterKind) -> None:
    tiny = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 2, "num_classes": 0}
    frozen = FrozenViT(timm.create_model("eva02_tiny_patch14_224", qkv_fused=True, **tiny)).double()
    assert frozen.shapes.attention == 144
    bank, chosen = stacked([drawn(kind, frozen.shapes, key) for key in (1, 2)]), torch.tensor([1, 0, 1])
    with torch.no_grad():
        stem = frozen.stem(images())
        together = frozen.features(stem, per_image(kind, bank, chosen))
        for row, key in enumerate(chosen.tolist()):
            weights = drawn(kind, frozen.shapes, key + 1)
            alone = frozen.features(images()[row : row + 1], shared(kind, weights))
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=1e-6)
            changed = {
                f"blocks.{block}.attn.qkv.weight": kind.attention(
                    {n: t[block - 1] for n, t in weights.items()}, frozen.network.blocks[block].attn.qkv.weight
                )
                for block in (1, 2)
            }
            torch.testing.assert_close(alone, frozen.features(images()[row : row + 1], weights=changed))


def test_hut_keeps_zeros_and_its_quotient_has_the_rank() -> None:
    kind, own = HUT(rank=3), torch.randn(96, 32, dtype=torch.float64, generator=generator(4))
    own[5] = 0
    weights = {name: t[0] for name, t in drawn(kind, Shapes(2, 32, 96)).items()}
    changed = kind.attention(weights, own)
    assert not changed[5].any()
    rest = [row for row in range(96) if row != 5]
    assert int(torch.linalg.matrix_rank(changed[rest] / own[rest] - 1, rtol=1e-9)) == 3


@pytest.mark.parametrize("kind", [LoRA(rank=3), Bottleneck(bottleneck=3), Ladder(reduction=4)], ids=str)
def test_checkpoints_change_no_gradient(kind: AdapterKind) -> None:
    frozen, gradients = vit(3), []
    for checkpoint in (False, True):
        weights = {n: t.requires_grad_() for n, t in drawn(kind, frozen.shapes).items()}
        frozen.features(images(), shared(kind, weights), checkpoint=checkpoint).square().sum().backward()
        gradients.append([t.grad for t in weights.values()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]


# Ladders -----------------------------------------------------------------------------------------------


def literal_ladder(frozen: FrozenViT, kind: Ladder, w: Weights, x: Tensor) -> Tensor:
    """The equations, one by one, with hidden states from hooks."""
    states: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, at=index + 1: states.__setitem__(at, out))
        for index, block in enumerate(frozen.network.blocks)
    ]
    features = frozen.network.forward_head(frozen.network.forward_features(x), pre_logits=True)
    for hook in hooks:
        hook.remove()
    narrow = 32 // kind.reduction

    def flat(t: Tensor, eps: float = 1e-5) -> Tensor:
        return (t - t.mean(-1, keepdim=True)) / (t.var(-1, keepdim=True, unbiased=False) + eps).sqrt()

    z = flat(frozen.stem(x).h, 1e-8) @ w["start_weight"].mT + w["start_bias"]
    for i, place in enumerate(read_blocks(frozen.depth, kind.blocks)):
        own = {name.removesuffix(f"_{i}"): t for name, t in w.items() if name.endswith(f"_{i}")}
        g = torch.sigmoid(own["gate"] / 0.1)
        z = g * z + (1 - g) * (flat(states[place], 1e-8) @ own["down_weight"].mT + own["down_bias"])
        q, k, v = ((flat(z) * own["norm1_weight"] + own["norm1_bias"]) @ own["qkv_weight"].mT + own["qkv_bias"]).split(
            narrow, dim=-1
        )
        attended = torch.softmax(q @ k.mT / narrow**0.5, -1) @ v  # a ladder so narrow has one head
        z = z + attended @ own["proj_weight"].mT + own["proj_bias"]
        hidden = (flat(z) * own["norm2_weight"] + own["norm2_bias"]) @ own["fc1_weight"].mT + own["fc1_bias"]
        z = z + torch.nn.functional.gelu(hidden) @ own["fc2_weight"].mT + own["fc2_bias"]
    read = (flat(z) * w["norm_weight"] + w["norm_bias"])[:, 0]
    return features + read @ w["up_weight"].mT + w["up_bias"]


@pytest.mark.parametrize("depth", [2, 4, 6])
def test_a_ladder_is_its_equations(depth: int) -> None:
    frozen, kind = vit(depth), Ladder(reduction=4, blocks=3)
    weights = drawn(kind, frozen.shapes)
    with torch.no_grad():
        found = frozen.features(images(), shared(kind, weights))
        torch.testing.assert_close(found, literal_ladder(frozen, kind, weights, images()))


def test_gates_are_open_halfway_at_first_and_dropped_blocks_keep_shapes() -> None:
    new = Ladder(reduction=4, blocks=3).new(Shapes(6, 32), generator(0))
    assert all(float(torch.sigmoid(new[f"gate_{i}"] / 0.1)) == 0.5 for i in range(3))
    fewer = Ladder(reduction=4, blocks=1).new(Shapes(6, 32), generator(0))
    assert {n: t.shape for n, t in fewer.items()} == {n: new[n].shape for n in fewer}
    assert read_blocks(11, 4) == [2, 5, 8, 10]
    assert read_blocks(12, 4) == [3, 6, 8, 11]


def test_all_ladders_read_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, kind, ran = vit(4), Ladder(reduction=4), []
    whole = FrozenViT._mlp
    monkeypatch.setattr(FrozenViT, "_mlp", lambda self, index, h: ran.append(index) or whole(self, index, h))  # type: ignore[func-returns-value]
    with torch.no_grad():
        stem = frozen.stem(images(), reads=kind.reads)
        found = [frozen.features(stem, shared(kind, drawn(kind, frozen.shapes, key))) for key in range(5)]
        assert ran == [0, 1, 2, 3]
        for key, one in enumerate(found):
            alone = frozen.features(images(), shared(kind, drawn(kind, frozen.shapes, key)))
            torch.testing.assert_close(one, alone)


def kept_for_gradients(frozen: FrozenViT, kind: AdapterKind) -> int:
    """Bytes that are saved for a backward pass of a training step, the ViT's own weights left out."""
    seen: dict[int, int] = {}
    weights = {n: t.requires_grad_() for n, t in drawn(kind, frozen.shapes).items()}
    own = {p.data_ptr() for p in frozen.parameters()} | {t.data_ptr() for t in weights.values()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with torch.set_grad_enabled(not kind.reads):
            stem = frozen.stem(images(8), reads=kind.reads)
        frozen.features(stem, shared(kind, weights)).sum().backward()
    return sum(seen.values())


def test_no_gradient_of_a_ladder_passes_through_the_backbone() -> None:
    frozen = vit(8, embed_dim=64)
    assert kept_for_gradients(frozen, Ladder(blocks=2)) < 0.4 * kept_for_gradients(frozen, Bottleneck())


# Refusals ----------------------------------------------------------------------------------------------


def test_widths_that_do_not_divide_are_refused_with_the_divisors() -> None:
    for kind, said in (
        (Ladder(reduction=7), "reduction = 7 does not divide the ViT's width 32; .* 1, 2, 4, 8, 16, 32"),
        (Compacter(n=3, width=12), "n = 3 does not divide the ViT's width 32; with width = 12, .* 1, 2, 4$"),
    ):
        with pytest.raises(InputError, match=said):
            kind.new(Shapes(2, 32), None)
    with pytest.raises(ValueError, match="n = 5 does not divide the width 24: take one of 1, 2, 3, 4, 6, 8, 12, 24"):
        Compacter(n=5)
    for name in ("lora", "hut"):
        with pytest.raises(InputError, match="attn.qkv, and this ViT has none: take adapter='bottleneck'"):
            adapters.KINDS.get(name)().check(Shapes(2, 32))
        with pytest.raises(InputError, match="leaves the first block as it is"):
            adapters.KINDS.get(name)().check(Shapes(1, 32, 96))


@pytest.mark.parametrize("name", adapters.KINDS.all())
def test_an_adapter_for_each_image_traces_for_any_number_of_images(name: str) -> None:
    shapes, views = Shapes(3, 32, 96), 2
    kind = adapters.KINDS.get(name)(
        **({"reduction": 4} if name == "ladder" else {"width": 8} if name == "compacter" else {})
    )
    bank = stacked([{n: t.float() for n, t in kind.finished(drawn(kind, shapes, key)).items()} for key in (1, 2)])

    class Served(torch.nn.Module):
        def forward(self, h: Tensor, chosen: Tensor) -> Tensor:
            served = per_image(kind, bank, chosen)
            if served.after is not None:
                tokens = [h.repeat_interleave(views, 0)] * (1 + len(read_blocks(3, served.reads)))
                return served.after(tokens, lambda z: z[:, 0])
            return served.beside(1, h) if served.beside is not None else served.attention(1, h)  # type: ignore[misc]

    size = (96, 32) if kind.acts("attention") else (5, 32)

    def given(count: int) -> tuple[Tensor, Tensor]:
        shape = size if kind.acts("attention") else (count, *size)
        return torch.randn(shape, generator=generator(3)), torch.arange(count) % 2

    batch = torch.export.Dim("batch", min=1)
    axes = (None if kind.acts("attention") else {0: batch}, {0: batch})
    graph = torch.export.export(Served(), given(3), dynamic_shapes=axes).module()
    torch.testing.assert_close(graph(*given(5)), Served()(*given(5)))
