"""Laws of all registered wrappers: exactly equivariant for any model, weights, batch and mode; pure; stored whole."""

from __future__ import annotations

import copy
import shutil
from inspect import signature
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import equivariant as eq
from equivariant.checks.equivariance import TOLERANCE, relative_error
from equivariant.outputs import leaves
from equivariant.tuning.orbit_cache import cache_views, on_caches
from equivariant.wrappers import find_wrapper, wrappers
from equivariant.wrappers.base import Network
from tests.support.zoo import GROUPS, WRAPPERS, ZOO, Micro, vit

WEIGHTED = [name for name, make in WRAPPERS.items() if isinstance(make(Micro(), "C1"), eq.WeightedWrapper)]
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def worst_error(wrapper: nn.Module, group: str, x: Tensor, output: Any = None, input: eq.Action | None = None) -> float:
    """The largest relative error over all elements, in whatever mode the wrapper is."""
    g_, move = eq.as_group(group), input or eq.Images()
    with torch.no_grad():
        plain = leaves(output or eq.Trivial(), wrapper(x))
        errors = [
            relative_error(action(g_, g, y), z)
            for g in range(g_.order)
            for (action, y), (_, z) in zip(plain, leaves(output or eq.Trivial(), wrapper(move(g_, g, x))), strict=True)
        ]
    return max(errors)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_every_group_dtype_mode_and_batch_size(name: str, group: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = Micro()
        nn.init.normal_(model.second[1].weight)
        wrapper = WRAPPERS[name](model, group).to(dtype)
        for training in (False, True):
            for batch in (1, 3):
                x = torch.randn(batch, 3, 6, 6).to(dtype)
                assert worst_error(wrapper.train(training), group, x) <= TOLERANCE[dtype], (dtype, training, batch)


@pytest.mark.parametrize("architecture", ZOO)
@pytest.mark.parametrize("name", WRAPPERS)
def test_every_architecture_and_output(name: str, architecture: str) -> None:
    build, side, output = ZOO[architecture]
    wrapper = WRAPPERS[name](build(), "D4", output=output)
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, side, side).to(dtype)
        plain = worst_error(wrapper.to(dtype).eval().model, "D4", x, output)
        assert plain > 1e-3, "the bare model must not be equivariant, or this test shows nothing"
        for training in (False, True):
            assert worst_error(wrapper.train(training), "D4", x, output) <= TOLERANCE[dtype], (dtype, training)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ZOO)
@pytest.mark.parametrize("name", WRAPPERS)
def test_every_group_and_dtype_on_every_architecture(name: str, architecture: str) -> None:
    build, side, output = ZOO[architecture]
    for group in GROUPS:
        wrapper = WRAPPERS[name](build(), group, output=output)
        for dtype, training, batch in product(TOLERANCE, (False, True), (1, 2, 3)):
            if dtype == torch.float16:
                continue  # torch's CPU kernels lack some layers in it
            x = torch.randn(batch, 3, side, side).to(dtype)
            error = worst_error(wrapper.to(dtype).train(training), group, x, output)
            assert error <= TOLERANCE[dtype], (group, dtype, training, batch)


class Anywhere(nn.Module):
    """Scores of images of any size and any number of channels, different for every pixel."""

    def __init__(self, seed: int, scale: float) -> None:
        super().__init__()
        self.seed, self.scale = seed, scale

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.randn(x[0].numel(), 4, generator=torch.Generator().manual_seed(self.seed), dtype=x.dtype)
        return self.scale * torch.tanh(x.flatten(1) @ weights)


@given(
    name=st.sampled_from(sorted(WRAPPERS)),
    group=st.sampled_from(GROUPS),
    side=st.integers(1, 7),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    levels=st.sampled_from([1, 2, 1000]),
    chunk=st.sampled_from([None, 1, 3]),
)
def test_any_weights_images_and_chunks(
    name: str, group: str, side: int, batch: int, seed: int, scale: float, levels: int, chunk: int | None
) -> None:
    """With few grey levels many views tie, and with images of one pixel all do."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(batch, 3, side, side, generator=draw, dtype=torch.float64) * levels).floor()
    wrapper = WRAPPERS[name](Anywhere(seed, scale), group, chunk=chunk).double()
    for training in (False, True):
        assert worst_error(wrapper.train(training), group, x) <= 1e-12


class Fields(nn.Module):
    """Flow (B, 2, H, W), regular features (B, 2·4), points (B, 3, 2) and boxes (B, 2, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = nn.Conv2d(3, 2, 3, padding=1)
        self.rest = nn.Linear(3 * 8 * 8, 8 + 6 + 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        regular, points, boxes = self.rest(x.flatten(1)).split([8, 6, 8], dim=1)
        low, size = boxes.reshape(-1, 2, 4).split(2, dim=2)
        return {
            "flow": self.flow(x),
            "regular": regular,
            "points": points.reshape(-1, 3, 2),
            "boxes": torch.cat([low, low + size.abs()], dim=2),
        }


@pytest.mark.parametrize("name", WRAPPERS)
def test_vectors_regular_features_points_and_boxes(name: str) -> None:
    """A wrapper that is no weighted mean may refuse them instead."""
    output = {"flow": eq.VectorField(), "regular": eq.Regular(), "points": eq.Keypoints(8, 8), "boxes": eq.Boxes(8, 8)}
    if name not in WEIGHTED:
        with pytest.raises(eq.InputError, match="not equivariant"):
            WRAPPERS[name](Fields(), "C4", output=output)
        return
    wrapper = WRAPPERS[name](Fields(), "C4", output=output).double().eval()
    assert worst_error(wrapper, "C4", torch.randn(2, 3, 8, 8).double(), output) <= 1e-12


def test_a_maximum_over_arrows_is_refused() -> None:
    for action in (eq.VectorField(), eq.Boxes(8, 8), (eq.Trivial(), eq.Keypoints(8, 8))):
        with pytest.raises(eq.InputError, match="not equivariant: use Equitune"):
            eq.OrbitMax(Micro(), "C4", output=action)


@pytest.mark.parametrize("name", WRAPPERS)
def test_interpolated_groups_are_close_and_exact_at_right_angles(name: str) -> None:
    def output_of(x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

    class Smooth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return output_of(x)

    crop = eq.Images(crop="circle")
    wrapper = WRAPPERS[name](Smooth(), "C8", input=crop).eval()
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 3, 3), size=(32, 32), mode="bicubic")
    assert worst_error(wrapper, "C4", x, input=crop) < 1e-4
    if name in ("equitune", "lambda", "max"):  # the others choose by single pixels, which do not survive blurring
        assert 1e-6 < worst_error(wrapper, "C8", x, input=crop) < 0.1


@pytest.mark.parametrize("name", WRAPPERS)
def test_chunks_and_checkpoints_change_nothing(name: str) -> None:
    model, x = Micro().double(), torch.randn(3, 3, 6, 6).double()
    wrapper = WRAPPERS[name](model, "D4").double().eval()

    def run() -> tuple[Tensor, list[Tensor]]:
        wrapper.zero_grad()
        answer = wrapper(x)
        answer.square().sum().backward()
        return answer.detach(), [p.grad for p in model.parameters()]

    whole = run()
    passes: list[int] = []
    model.first.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    for wrapper.chunk in (1, 3, 99):
        for wrapper.checkpoint in (False, True):
            torch.testing.assert_close(run(), whole)
    if name not in ("anytime", "canonicaliser"):  # their passes are of chosen views
        assert sum(passes) % 3 == 0
        once = sum(passes) // 9
        assert passes[-2:] == [once, once], "a checkpoint runs the model again in the backward pass"


@pytest.mark.parametrize("name", WRAPPERS)
def test_no_view_is_alive_longer_than_its_chunk(name: str) -> None:
    sizes = []
    model = Micro().eval()
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with torch.no_grad():
        WRAPPERS[name](model, "D4", chunk=2).eval()(torch.randn(3, 3, 6, 6))
    assert max(sizes) <= 6


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_answer_does_not_depend_on_the_neighbours(name: str) -> None:
    wrapper = WRAPPERS[name](Micro(), "D4").double().eval()
    x = torch.randn(5, 3, 6, 6).double()
    with torch.no_grad():
        together = wrapper(x)
        alone = torch.cat([wrapper(x[i : i + 1]) for i in range(5)])
        shuffled = wrapper(x[[3, 1, 4, 0, 2]])
    torch.testing.assert_close(alone, together)
    torch.testing.assert_close(shuffled, together[[3, 1, 4, 0, 2]])


@pytest.mark.parametrize("name", WRAPPERS)
def test_evaluation_is_pure(name: str) -> None:
    wrapper = WRAPPERS[name](ZOO["torchvision MobileNet"][0](), "C4").eval()
    x = torch.randn(2, 3, 24, 24)
    before = {k: v.clone() for k, v in wrapper.state_dict().items()}
    kept = x.clone()
    with torch.no_grad():
        assert torch.equal(wrapper(x), wrapper(x))
    assert torch.equal(x, kept)
    assert all(torch.equal(v, before[k]) for k, v in wrapper.state_dict().items())


@pytest.mark.parametrize("name", WRAPPERS)
def test_one_copy_of_the_backbone(name: str) -> None:
    model = Micro()
    wrapper = WRAPPERS[name](model, "D4")
    own = [id(p) for p in model.parameters()]
    assert set(own) <= {id(p) for p in wrapper.parameters()}
    scores = sum(
        p.numel() for part in wrapper.modules() if type(part).__name__ == "Anything" for p in part.parameters()
    )
    assert sum(p.numel() for p in wrapper.parameters()) == sum(p.numel() for p in model.parameters()) + scores


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_view_takes_one_pass(name: str) -> None:
    """λ, a proxy loss or a score never asks the backbone again; what is not chosen is not finished."""
    model, seen, x = Micro(), [], torch.randn(9, 3, 6, 6)
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    wrapper = WRAPPERS[name](model, "D4").eval()
    wrapper(x)
    passes = 9 * {"canonicaliser": 1, "pruned": 2}.get(name, 8)
    if name == "anytime":
        passes = int((wrapper.orbit_weights(x) > 0).sum())
        assert sum(seen[len(seen) // 2 :]) == passes
        assert 9 < passes < 72, "some stop, some do not, or this shows little"
        seen = seen[: len(seen) // 2]
    assert sum(seen) == passes


@pytest.mark.parametrize("name", WRAPPERS)
def test_autocast(name: str) -> None:
    wrapper = WRAPPERS[name](Micro(), "D4").eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert worst_error(wrapper, "D4", x) < TOLERANCE[torch.bfloat16]
        narrow = wrapper(x)
    assert narrow.dtype == torch.bfloat16
    if name in ("equitune", "lambda", "lambda on input", "max"):  # a choice may fall elsewhere in lower precision
        torch.testing.assert_close(narrow.float(), wrapper(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["equitune", "lambda", "equizero", "max"])
def test_compiles_without_breaks(name: str) -> None:
    torch._dynamo.reset()
    wrapper = WRAPPERS[name](Micro(), "C4").eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        compiled = torch.compile(wrapper, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), wrapper(x))


@pytest.mark.parametrize("name", ["anytime", "canonicaliser", "pruned"])
def test_compiles_where_the_number_of_passes_depends_on_the_images(name: str) -> None:
    torch._dynamo.reset()
    wrapper = WRAPPERS[name](Micro(), "C4").eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(wrapper, backend="eager")(x), wrapper(x))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", WRAPPERS)
def test_compiles_to_machine_code(name: str) -> None:
    torch._dynamo.reset()
    wrapper = WRAPPERS[name](Micro(), "C4").eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(wrapper)(x), wrapper(x))


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_sum_to_one_and_move_with_the_image(name: str) -> None:
    group = eq.as_group("D4")
    wrapper = WRAPPERS[name](Micro(), group).double().eval()
    x = torch.randn(3, 3, 6, 6).double()
    assert isinstance(wrapper, eq.WeightedWrapper)
    with torch.no_grad():
        weights = wrapper.orbit_weights(x)
        assert weights.shape == (8, 3)
        torch.testing.assert_close(weights.sum(0), torch.ones(3).double())
        views = eq.align(group, wrapper.model(eq.orbit(group, x).flatten(0, 1)).unflatten(0, (8, 3)), eq.Trivial())
        torch.testing.assert_close(wrapper(x), (weights[..., None] * views).sum(0))
        for h in range(group.order):
            moved = wrapper.orbit_weights(eq.act(group, h, x))
            expected = weights[[group.product(g, h) for g in range(group.order)]]
            torch.testing.assert_close(moved, expected)


# Around a classifier, as configs and commands make them ---------------------------------------------------


def networks() -> Network:
    features = vit(num_classes=0).eval()
    return Network(features, nn.Linear(16, 4), features)


def choices(name: str) -> list[dict[str, Any]]:
    """The defaults, and every value of every option that names its values."""
    options = get_type_hints(wrappers()[name].around, include_extras=True)
    kinds = {key: get_args(kind)[0] for key, kind in options.items() if hasattr(kind, "__metadata__")}
    named = [{key: value} for key, kind in kinds.items() if get_origin(kind) is Literal for value in get_args(kind)]
    return [{"blocks": 1} if "blocks" in kinds else {}, *named]


@pytest.mark.parametrize(("name", "options"), [(name, options) for name in wrappers() for options in choices(name)])
def test_a_classifier_by_name_and_options(name: str, options: dict[str, Any]) -> None:
    network, group = networks(), eq.as_group("D4")
    assert wrappers()[name].name == name
    model = wrappers()[name].around(network, group, 3, **options).eval()
    wrapper = find_wrapper(model)
    assert wrapper is not None
    assert (wrapper.group, wrapper.chunk) == (group, 3)
    for parameter in wrapper.weight_parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(3, 3, 16, 16)
    eq.assert_equivariant(model, group, x, float64=True)
    with torch.no_grad():
        answer = model(x)
        assert answer.shape == (3, 4)
        assert answer.isfinite().all()
        plain = network.whole(x)
        assert not torch.allclose(answer, plain, rtol=1e-3), "a wrapper that does nothing would pass for one"
        if wrapper.through_model:
            views, _ = cache_views(wrapper, (x, torch.zeros(3, dtype=torch.int64)), 3)
            with on_caches(wrapper):
                torch.testing.assert_close(model(views), answer)


@pytest.mark.parametrize("name", wrappers())
def test_every_option_has_a_default_and_says_what_it_is(name: str) -> None:
    around = wrappers()[name].around
    kinds = get_type_hints(around, include_extras=True)
    for option in signature(around).parameters.values():
        if option.kind is option.KEYWORD_ONLY:
            assert option.default is not option.empty
            assert [type(text) for text in kinds[option.name].__metadata__] == [str], option


# Stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRAPPERS)
def test_weights_of_another_group_are_refused_and_nothing_changes(name: str) -> None:
    saved = WRAPPERS[name](Micro(), "D4").state_dict()
    wrapper = WRAPPERS[name](Micro(), "C4")
    before = copy.deepcopy(wrapper.state_dict())
    with pytest.raises(eq.GroupError, match="saved for the group D4, but this wrapper's is C4"):
        wrapper.load_state_dict(saved)
    assert all(torch.equal(value, before[key]) for key, value in wrapper.state_dict().items())


@pytest.mark.parametrize("name", WRAPPERS)
def test_state_dict_round_trip(name: str, tmp_path: Any) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    first, second = WRAPPERS[name](Micro(), "D4").eval(), WRAPPERS[name](Micro(), "D4").eval()
    assert not torch.equal(first(X), second(X))
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(first(X), second(X))
    safetensors.save_file(first.state_dict(), tmp_path / "weights.safetensors")
    third = WRAPPERS[name](Micro(), "D4").eval()
    third.load_state_dict(safetensors.load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(first(X), third(X))
    assert torch.equal(copy.deepcopy(first)(X), first(X))


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ZOO)
@pytest.mark.parametrize("name", WRAPPERS)
def test_on_the_gpu(name: str, architecture: str) -> None:
    build, side, output = ZOO[architecture]
    wrapper = WRAPPERS[name](build(), "D4", output=output).double().eval()
    x = torch.randn(3, 3, side, side).double()
    with torch.no_grad():
        here = leaves(output, wrapper(x))
        there = leaves(output, wrapper.cuda()(x.cuda()))
    for (_, a), (_, b) in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a)
    assert worst_error(wrapper, "D4", x.cuda(), output) <= TOLERANCE[torch.float64]
