"""What each method promises beyond equivariance: limits, ties, gradients, training."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.ties import best, top
from equivariant.wrappers.base import weighted_sum
from tests.support.zoo import Anything, Micro, TinyUNet, Whole, convnext, mobilenet, vit


class Constant(nn.Module):
    """λ ≡ a constant."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), self.value)


class OneHot(nn.Module):
    """λ = 1 for the view with the least entropy of its scores, found by looking at all views at once, else 0."""

    def __init__(self, order: int, proxy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.order, self.proxy = order, proxy

    def forward(self, logits: Tensor) -> Tensor:
        losses = self.proxy(logits).unflatten(0, (self.order, -1))
        return (losses == losses.amin(0)).to(logits.dtype).flatten()


X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(7))
SYMMETRIC = sum(X.double().rot90(k, (2, 3)) for k in range(4))  # fixed by C4, up to rounding
MIRRORED = (X + X.flip(-1)) / 2  # fixed by mirror_h, bit for bit


# λ-equitune ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["C1", "C4", "D4", "channels3", "C4 x channel_cycle3"])
@pytest.mark.parametrize(("positive", "value"), [("none", 1.0), ("exp", 0.0), ("exp", 3.7)])
def test_constant_lambda_is_equitune_bit_for_bit(group: str, positive: Any, value: float) -> None:
    model = Micro()
    constant = eq.LambdaEquitune(model, group, network=Constant(value), positive=positive)
    assert torch.equal(constant(X), eq.Equitune(model, group)(X))


def test_a_fresh_lambda_is_equitune() -> None:
    features, head = eq.take_off_head(vit())
    fresh = eq.LambdaEquitune(features, "D4", head=head)
    assert sum(p.numel() for p in fresh.network.parameters()) == 16 * 100 + 100 + 100 * 100 + 100 + 100 + 1
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(fresh(x), eq.Equitune(nn.Sequential(features, head), "D4")(x))


@pytest.mark.parametrize("group", ["C4", "D4", "channels3"])
@pytest.mark.parametrize("proxy", [eq.entropy, eq.max_probability])
def test_one_hot_lambda_is_equizero_bit_for_bit(group: str, proxy: Any) -> None:
    model = Micro()
    one_hot = eq.LambdaEquitune(model, group, network=OneHot(eq.as_group(group).order, proxy), positive="none")
    assert torch.equal(one_hot(X), eq.Equizero(model, group, proxy=proxy)(X))
    assert not torch.equal(one_hot(X), eq.Equitune(model, group)(X))


def test_sharp_lambda_tends_to_canonicalisation() -> None:
    model, network = Micro(), Anything()
    network.gain.data.fill_(1e4)
    sharp = eq.LambdaEquitune(model, "C4", network=network, reads="input")
    torch.testing.assert_close(sharp(X), eq.Canonicaliser(model, "C4", score=network).eval()(X))


def test_lambda_reads_features_and_the_head_stands_inside_or_outside() -> None:
    features, head = nn.Sequential(Micro(6), nn.Tanh()), nn.Sequential(nn.Linear(6, 4), nn.Softmax(1))
    inside = eq.LambdaEquitune(features, "C4", head=head)
    outside = nn.Sequential(eq.LambdaEquitune(features, "C4", width=6), head)
    for wrapper in (inside, outside[0]):
        nn.init.normal_(wrapper.network.layers[-1].weight)
    outside[0].network.load_state_dict(inside.network.state_dict())
    z = features(eq.orbit("C4", X).flatten(0, 1))
    weights = inside.network(z).unflatten(0, (4, 3)).softmax(0)[..., None]
    torch.testing.assert_close(inside(X), (weights * head(z).unflatten(0, (4, 3))).sum(0))
    torch.testing.assert_close(outside(X), head((weights * z.unflatten(0, (4, 3))).sum(0)))


# Equizero and the canonicaliser --------------------------------------------------------------------------


def test_equizero_takes_the_most_confident_view() -> None:
    logits = torch.tensor([[0.0, 0.1, 0.0], [4.0, 0.0, 0.0], [1.0, 0.9, 0.0]])
    for proxy in (eq.entropy, eq.max_probability):
        assert proxy(logits).argmin() == 1
        assert proxy(logits).shape == (3,)
    torch.testing.assert_close(eq.max_probability(logits), -logits.softmax(1).amax(1).log())
    torch.testing.assert_close(eq.entropy(logits), torch.distributions.Categorical(logits=logits).entropy())
    assert eq.entropy(torch.tensor([[0.0, -torch.inf, 0.0]])).item() == pytest.approx(0.6931, abs=1e-4)
    maps = logits[..., None, None].expand(3, 3, 2, 5)
    torch.testing.assert_close(eq.entropy(maps), eq.entropy(logits))


def test_similarity_takes_the_view_nearest_to_a_reference() -> None:
    references = torch.randn(5, 4)
    model = Micro()
    wrapper = eq.Equizero(model, "C4", proxy=eq.Similarity(references))
    features = model(eq.orbit("C4", X).flatten(0, 1)).unflatten(0, (4, 3))
    similar = nn.functional.cosine_similarity(features[:, :, None], references, dim=-1).amax(2)
    assert torch.equal(wrapper(X), features[similar.argmax(0), torch.arange(3)])
    assert "proxy.references" in wrapper.state_dict()


def test_the_canonicaliser_returns_its_element_and_the_turned_image() -> None:
    wrapper = eq.Canonicaliser(Micro(), "D4", score=Anything()).eval()
    elements, canonical = wrapper.canonicalise(X)
    for i, g in enumerate(elements.tolist()):
        assert torch.equal(canonical[i : i + 1], eq.act("D4", g, X[i : i + 1]))
    torch.testing.assert_close(wrapper(X), wrapper.model(canonical))
    for h in range(8):
        again, same = wrapper.canonicalise(eq.act("D4", h, X))
        assert torch.equal(same, canonical)
        group = eq.as_group("D4")
        assert [group.product(g, h) for g in again.tolist()] == elements.tolist()


def test_the_canonicaliser_runs_the_backbone_once() -> None:
    model, passes = Micro(), []
    model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    eq.Canonicaliser(model, "D4").eval()(X)
    eq.Canonicaliser(model, "D4").train()(X)
    assert passes == [3, 3]


def test_gumbel_noise_tries_other_elements_and_teaches_the_score() -> None:
    wrapper = eq.Canonicaliser(Micro(), "C4")
    x = X[:1].expand(64, -1, -1, -1)
    answers = wrapper(x)
    assert len({tuple(row) for row in answers.detach().round(decimals=4).tolist()}) == 4
    answers.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in wrapper.score.parameters())


def test_the_canonicaliser_learns_which_way_is_up() -> None:
    """Bright at the top is easy for the model, which sees only the first row: s must learn to turn it up."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d((6, 1)), nn.Flatten(), nn.Linear(6, 1))
    with torch.no_grad():
        model[2].weight.zero_()[0, 0] = 1
        model[2].bias.zero_()
    wrapper = eq.Canonicaliser(model.requires_grad_(False), "C4", channels=1)
    x = torch.zeros(32, 1, 6, 6)
    for i in range(32):
        x[i] = torch.zeros(1, 6, 6).index_fill_(1, torch.tensor([0]), 1.0).rot90(i % 4, (1, 2))
    optimizer = torch.optim.Adam(wrapper.score.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        (-wrapper(x)).mean().backward()
        optimizer.step()
    assert wrapper.eval()(x).mean() > 0.99


# Ties ----------------------------------------------------------------------------------------------------


def test_the_tie_rule() -> None:
    scores = torch.tensor([[1.0, 5.0], [3.0, 5.0 + 1e-6], [3.0, 1.0]])
    assert best(scores, 1e-5).tolist() == [[0.0, 0.5], [0.5, 0.5], [0.5, 0.0]]
    assert best(scores, 0.0).tolist() == [[0.0, 0.0], [0.5, 1.0], [0.5, 0.0]]
    assert top(scores, 2, 1e-5).tolist() == [[False, True], [True, True], [True, False]]
    assert top(torch.tensor([[2.0], [2.0], [1.0], [1.0]]), 3, 0.0).all()


@pytest.mark.parametrize("image", [SYMMETRIC, MIRRORED, torch.zeros(2, 3, 6, 6)], ids=["C4", "mirror", "blank"])
@pytest.mark.parametrize("name", ["equizero", "canonicaliser", "pruned"])
def test_symmetric_images_tie_and_stay_equivariant(name: str, image: Tensor) -> None:
    model = Padded()
    wrapper = {
        "equizero": lambda: eq.Equizero(model, "D4", output=eq.Maps()),
        "canonicaliser": lambda: eq.Canonicaliser(model, "D4", score=Anything(), output=eq.Maps()),
        "pruned": lambda: eq.PrunedOrbit(Whole(model), "D4", score=Anything(), output=eq.Maps()),
    }[name]()
    wrapper = wrapper.double().eval()
    eq.assert_equivariant(wrapper, "D4", image.double())
    weights = wrapper.orbit_weights(image.double())
    assert ((weights > 0).sum(0) >= 2).all()


class Padded(nn.Module):
    """A map model that sees where it is: its answer for a symmetric image is not symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(3, 6, 6))
        self.net = TinyUNet().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.place)


def test_without_the_tie_rule_a_symmetric_image_would_break_a_map() -> None:
    model = Padded().double().eval()
    maps = model(MIRRORED.double())
    assert (maps - maps.flip(-1)).abs().max() > 1e-3
    whole = eq.Equizero(model, "mirror_h", output=eq.Maps())(MIRRORED.double())
    torch.testing.assert_close(whole, whole.flip(-1))
    torch.testing.assert_close(whole, (maps + maps.flip(-1)) / 2)


# Pruned orbit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_pruned_orbit_finishes_the_best_elements_only(keep: int) -> None:
    model = vit(depth=4)
    wrapper = eq.PrunedOrbit(eq.StagedViT(model, blocks=1), "D4", keep=keep).eval()
    nn.init.normal_(wrapper.score.layers[-1].weight)
    passes = [0] * 4
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda module, args, i=i: passes.__setitem__(i, passes[i] + len(args[0])))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        answer = wrapper(x)
    assert passes == [16, 2 * keep, 2 * keep, 2 * keep]
    weights = wrapper.orbit_weights(x)
    assert ((weights > 0).sum(0) == keep).all()
    views = model(eq.orbit("D4", x).flatten(0, 1)).unflatten(0, (8, 2))
    torch.testing.assert_close(answer, (weights[..., None] * views).sum(0))
    eq.assert_equivariant(wrapper, "D4", x)


def test_a_pruned_orbit_that_keeps_everything_is_lambda_equitune() -> None:
    wrapper = eq.PrunedOrbit(eq.StagedPair(Micro().first, Micro().second, 4), "C4", keep=4)
    nn.init.normal_(wrapper.score.layers[-1].weight)
    training = wrapper.train()(X)
    torch.testing.assert_close(wrapper.eval()(X), training)
    wrapper.keep = 1
    torch.testing.assert_close(wrapper.train()(X), training)
    assert not torch.allclose(wrapper.eval()(X), training, rtol=1e-3)


class Coarse(nn.Module):
    """A score that ties often, to within a few roundings: the first pixel, made coarse."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0].round() + 1e-6 * x[:, 0, 0, 1]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_a_pruned_orbit_in_chunks_holds_only_what_can_still_win(keep: int) -> None:
    x = torch.randn(40, 3, 6, 6)
    wrapper = eq.PrunedOrbit(Whole(Micro()), "D4", keep=keep, score=Coarse()).eval()
    rows, states, _ = wrapper._early(x)
    answer, weights = wrapper.answer(x)
    assert torch.equal(rows, (weights > 0).flatten().nonzero().squeeze(1))
    assert torch.equal(states, eq.orbit("D4", x).flatten(0, 1)[rows])
    assert ((weights > 0).sum(0) > keep).any(), "no ties, so this test shows little"
    for wrapper.chunk in (1, 3):
        again, more, _ = wrapper._early(x)
        assert torch.equal(again, rows)
        assert torch.equal(more, states)
        torch.testing.assert_close(wrapper(x), answer)
    wrapper.train()
    assert len(wrapper._early(x)[0]) == 8 * 40, "training finishes all"


def test_a_pruned_orbit_lets_go_of_the_images_before_the_blocks_need_room() -> None:
    model, views, alive = vit(), [], []
    model.patch_embed.register_forward_pre_hook(lambda module, args: views.append(weakref.ref(args[0])))
    model.blocks[0].register_forward_pre_hook(lambda module, args: alive.append(views[-1]() is not None))
    with torch.no_grad():
        eq.PrunedOrbit(eq.StagedViT(model, blocks=1), "C4", chunk=1).eval()(torch.randn(2, 3, 16, 16))
    assert alive[-4:] == [False] * 4


@pytest.mark.parametrize(
    "options", [{}, {"registers": 0, "class_token": False, "global_pool": "avg"}, {"num_classes": 0}, {"tokens": True}]
)
def test_a_staged_vit_gives_what_the_vit_gives(options: dict[str, Any]) -> None:
    tokens = options.pop("tokens", False)
    model = vit(depth=3, **options).train()
    staged = eq.StagedViT(model, 2, tokens=tokens)
    assert all(module.training for module in model.modules())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(staged(x), model.forward_features(x) if tokens else model(x))
    assert sum(p.numel() for p in staged.parameters()) == sum(p.numel() for p in model.parameters())


def test_models_that_are_not_plain_vits_are_refused() -> None:
    with pytest.raises(eq.InputError, match=r"lacks .*blocks.*StagedPair"):
        eq.StagedViT(Micro(), 1)
    rotary = timm.create_model("eva02_tiny_patch14_224", img_size=28, embed_dim=24, depth=2, num_heads=2, num_classes=4)
    with pytest.raises(eq.InputError, match="does not give its own output"):
        eq.StagedViT(rotary, 1)
    with pytest.raises(eq.InputError, match="from 1 to 1"):
        eq.StagedViT(vit(), 2)


# Gradients -----------------------------------------------------------------------------------------------


def gradcheck(wrapper: eq.OrbitWrapper, x: Tensor) -> None:
    """Compare the gradients of all parameters and of the input with finite differences, in float64."""
    wrapper = wrapper.double()
    names, values = zip(*[(n, p.detach().requires_grad_()) for n, p in wrapper.named_parameters()], strict=True)

    def function(images: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(wrapper, dict(zip(names, parameters, strict=True)), (images,))

    assert torch.autograd.gradcheck(function, (x.double().requires_grad_(), *values))


class Smallest(nn.Module):
    """3 x 2 x 2 → 2, with curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda m: eq.Equitune(m, "D4"),
        lambda m: eq.LambdaEquitune(m, "C4", network=Anything()),
        lambda m: eq.LambdaEquitune(m, "C4", network=Anything(), reads="input", positive="softplus"),
        lambda m: eq.OrbitMax(m, "C4"),
        lambda m: eq.Equizero(m, "C4", straight_through=False),
        lambda m: eq.PrunedOrbit(Whole(m), "C4", score=Anything()),
        lambda m: eq.PrunedOrbit(Whole(m), "C4", score=Anything(), keep=2).eval(),
        lambda m: eq.Canonicaliser(m, "C4", score=nn.Sequential(nn.Flatten(), Fixed())).eval(),
    ],
)
def test_gradients_are_those_of_finite_differences(make: Any) -> None:
    gradcheck(make(Smallest()), torch.randn(2, 3, 2, 2))


class Fixed(nn.Module):
    """A score without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] * 5


def test_a_weight_of_exactly_zero_still_gets_its_gradient() -> None:
    weights = torch.tensor([[0.0], [1.0]], dtype=torch.float64, requires_grad=True)
    answers = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighted_sum, (weights, answers))


def test_masked_scores_survive_a_choice() -> None:
    answers = torch.tensor([[[1.0, -torch.inf]], [[2.0, -torch.inf]]])
    assert weighted_sum(torch.tensor([[0.0], [1.0]]), answers).tolist() == [[2.0, -torch.inf]]
    assert weighted_sum(torch.tensor([[0.5], [0.5]]), answers).tolist() == [[1.5, -torch.inf]]


def test_straight_through_is_equizero_forward_and_equitune_backward() -> None:
    model = Micro()
    through, hard, mean = (
        eq.Equizero(model, "D4"),
        eq.Equizero(model, "D4", straight_through=False),
        eq.Equitune(model, "D4"),
    )

    def gradients(wrapper: nn.Module) -> list[Tensor]:
        answer = wrapper(X)
        return list(torch.autograd.grad((answer * torch.linspace(-1, 1, 12).reshape(3, 4)).sum(), model.parameters()))

    assert torch.equal(through(X), hard(X))
    torch.testing.assert_close(gradients(through), gradients(mean))
    assert not torch.allclose(gradients(through)[0], gradients(hard)[0])


def test_lambda_alone_learns_to_prefer_the_readable_view() -> None:
    """The frozen model reads only upright images; training λ alone must make it right on turned ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(256, 3, 3, 3) * 0.1
    labels = torch.arange(256) % 2
    x[:, 0, 0] += 2  # a bright top row says which way is up
    x[:, 1, 1, 1] += labels * 4.0 - 2
    x[:, 2, 0, 0] += labels * 4.0 - 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    model.requires_grad_(False)
    wrapper = eq.LambdaEquitune(nn.Sequential(*model[:3]), "C4", head=model[3])
    optimizer = torch.optim.Adam(wrapper.network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(wrapper(x), labels)
        loss.backward()
        optimizer.step()
    before = nn.functional.cross_entropy(eq.Equitune(model, "C4")(x), labels)
    assert loss < 0.8 * before
    weights = wrapper.orbit_weights(x)
    assert weights[0].mean() > 0.5


# Surgery -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "side", "width"),
    [
        (vit, 16, 16),
        (convnext, 32, 16),
        (mobilenet, 24, 8),
    ],
)
def test_taking_off_the_head_changes_nothing_but_where_it_is(build: Any, side: int, width: int) -> None:
    model, x = build().eval(), torch.randn(2, 3, side, side)
    before, count = model(x), sum(p.numel() for p in model.parameters())
    features, head = eq.take_off_head(model)
    assert features is model
    assert features(x).shape == (2, width)
    torch.testing.assert_close(head(features(x)), before)
    assert sum(p.numel() for p in features.parameters()) + sum(p.numel() for p in head.parameters()) == count
    with pytest.raises(eq.InputError, match="no head to take off"):
        eq.take_off_head(model)


def test_a_named_sub_module_can_be_wrapped() -> None:
    model = nn.Sequential(TinyUNet(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3, 8, 8)
    assert eq.equivariance_error(model, "D4", x).largest > 1e-3
    wrapped = eq.wrap_module(model, "0", lambda part: eq.Equitune(part, "D4", output=eq.Maps()))
    assert wrapped is model
    eq.assert_equivariant(model, "D4", x)
    eq.wrap_module(model, "0.model.down", lambda part: part)
    with pytest.raises(eq.InputError, match="no sub-module 'features': its children are 0, 1, 2, 3"):
        eq.wrap_module(model, "features", lambda part: part)
    with pytest.raises(eq.InputError, match="name one of"):
        eq.take_off_head(TinyUNet())
