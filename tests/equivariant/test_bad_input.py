"""Bad input gets one clear error before anything has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from tests.support.zoo import WRAPPERS, Anything, Micro, TinyUNet, Whole

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def never(*args: Any) -> None:
    raise AssertionError("the model must not run on bad input")


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], r"images are \(B, C, H, W\), but this tensor has shape \(3, 6, 6\)"),
        (X[:0], r"the batch is empty \(its shape is \(0, 3, 6, 6\)\)"),
        ((X * 9).to(torch.uint8), "not torch.uint8: scale and normalise them first"),
        (X[..., :4], "needs a square, not 6 x 4"),
        (torch.where(torch.arange(2).reshape(2, 1, 1, 1) == 1, torch.nan, X), "NaN in image 1 of the batch"),
        (X.tolist(), "must be a tensor, not list"),
    ],
)
def test_bad_images(name: str, x: Any, message: str) -> None:
    wrapper = WRAPPERS[name](Micro(), "D4")
    wrapper.model.register_forward_pre_hook(never)
    with pytest.raises(eq.InputError, match=message):
        wrapper(x)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_group_that_permutes_other_channels(name: str) -> None:
    with pytest.raises(eq.InputError, match="permutes 4 channels, but the images have 3"):
        WRAPPERS[name](Micro(), "channel_cycle4")(X)


class Breaks(nn.Module):
    """NaN for views whose first pixel is the brightest."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.where(flat[:, :1] == flat.amax(1, keepdim=True), torch.nan, flat[:, :4])


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_answer_of_nan_names_the_element(name: str) -> None:
    x = X.clone()
    x[0, 0, 0, -1] = 99  # the first pixel after a quarter turn
    wrapper = WRAPPERS[name](Breaks(), "C4", check=True).eval()
    with pytest.raises(eq.InputError, match="NaN for element r90 of C4"):
        wrapper(x)
    wrapper.check = False
    if name in ("equitune", "max"):
        assert wrapper(x).isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk=0"),
        ({"chunk": 1.5}, "chunk=1.5"),
        ({"input": "image"}, "input='image' must be an action"),
        ({"output": "map"}, "output='map' must be an action"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(eq.InputError, match=message):
        eq.Equitune(Micro(), "C4", **options)


def test_bad_groups_and_models() -> None:
    with pytest.raises(eq.GroupError, match="'mirror_h' swaps left and right"):
        eq.Equitune(Micro(), "flip")
    with pytest.raises(eq.InputError, match=r"torch\.nn\.Module, not function"):
        eq.Equitune(never, "C4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (eq.Maps(), r"output=Trivial\(\)"),
        ({"scores": eq.Trivial()}, r"announced with keys \['scores'\], but the model returns Tensor"),
        ((eq.Trivial(), eq.Trivial()), "announced with 2 parts"),
    ],
)
def test_an_output_that_does_not_fit_its_action(output: Any, message: str) -> None:
    with pytest.raises(eq.InputError, match=message):
        eq.Equitune(Micro(), "C4", output=output)(X)


@pytest.mark.parametrize("name", WRAPPERS)
def test_images_of_another_dtype_than_the_weights(name: str) -> None:
    with pytest.raises(eq.InputError, match=r"weights are torch.float32, and it failed on images of torch.float64"):
        WRAPPERS[name](Micro(), "C4").eval()(X.double())


def test_a_models_own_failure_is_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        eq.Equitune(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "C4")(X)


def test_outputs_without_a_batch_axis_or_of_labels() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum()

    class Label(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).argmax(1)

    with pytest.raises(eq.InputError, match="given 8 images.*first axis must be the batch"):
        eq.Equitune(Sum(), "C4")(X)
    with pytest.raises(eq.InputError, match="int64 cannot be averaged"):
        eq.Equitune(Label(), "C4")(X)

    class Dict(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x.flatten(1)}

    with pytest.raises(eq.InputError, match="output is a dict, not a tensor"):
        eq.Equitune(Dict(), "C4", output=eq.Trivial())(X)
    with pytest.raises(eq.InputError, match="output is a NoneType, which holds no tensor"):
        eq.Equitune(Returns(lambda x: None), "C4")(X)


class Returns(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


BAD_SCORES: list[tuple[Any, str]] = [
    (lambda x: x.flatten(1)[:, :2], r"one number for each of 8 images, \(8,\), but returned \(8, 2\)"),
    (lambda x: x.sum(), r"but returned \(\)"),
    (lambda x: 1.0, "but returned float"),
    (lambda x: torch.full((len(x),), torch.nan), "nan for element e and image 0"),
    (lambda x: torch.full((len(x),), torch.inf), "inf for element e and image 0: it must be finite"),
]


@pytest.mark.parametrize(("function", "message"), BAD_SCORES)
def test_proxy_losses_and_score_networks_that_return_something_else(function: Any, message: str) -> None:
    wrappers = [
        ("the proxy loss", eq.Equizero(Micro(), "C4", proxy=function)),
        ("the λ network", eq.LambdaEquitune(Micro(), "C4", network=Returns(function))),
        ("the score network", eq.Canonicaliser(Micro(), "C4", score=Returns(function))),
        ("the score network", eq.PrunedOrbit(Whole(Micro()), "C4", score=Returns(function))),
    ]
    for who, wrapper in wrappers:
        with pytest.raises(eq.InputError, match=f"{who} (must return )?.*{message}"):
            wrapper(X)


def test_weights_that_are_negative_or_all_zero() -> None:
    negative = eq.LambdaEquitune(Micro(), "C4", network=Returns(lambda z: z[:, 0] * 0 - 0.5), positive="none")
    with pytest.raises(eq.InputError, match="negative weight -0.5 for element e and image 0.*softplus"):
        negative(X)
    nothing = eq.LambdaEquitune(Micro(), "C4", network=Returns(lambda z: z[:, 0] * 0), positive="none")
    with pytest.raises(eq.InputError, match="weight 0 for every element of image 0"):
        nothing(X)


def test_options_of_the_methods() -> None:
    with pytest.raises(eq.InputError, match="positive='sigmoid' is not allowed"):
        eq.LambdaEquitune(Micro(), "C4", positive="sigmoid", width=4)  # type: ignore[arg-type]
    with pytest.raises(eq.InputError, match="give width="):
        eq.LambdaEquitune(Micro(), "C4")
    with pytest.raises(eq.InputError, match="ImageScore"):
        eq.LambdaEquitune(Micro(), "C4", reads="input")
    with pytest.raises(eq.InputError, match="'entropy', 'margin', 'max_probability', Similarity"):
        eq.Equizero(Micro(), "C4", proxy="confidence")
    with pytest.raises(eq.InputError, match=r"needs class scores \(n, K, …\), but the model returned \(8,\)"):
        eq.Equizero(Returns(lambda x: x.mean((1, 2, 3))), "C4")(X)
    with pytest.raises(eq.InputError, match="temperature=0"):
        eq.Canonicaliser(Micro(), "C4", temperature=0)
    with pytest.raises(eq.InputError, match="keep=5 must be from 1 to 4, the order of C4"):
        eq.PrunedOrbit(eq.StagedPair(nn.Identity(), Micro(), 3), "C4", keep=5)
    with pytest.raises(eq.InputError, match=r"use staged\(model, blocks=2\)"):
        eq.PrunedOrbit(Micro(), "C4")  # type: ignore[arg-type]
    with pytest.raises(eq.InputError, match=r"\(K, D\)"):
        eq.Similarity(torch.randn(3))


def test_a_nested_wrapper_keeps_its_group_too() -> None:
    model = nn.Sequential(eq.Equitune(TinyUNet(), "D4", output=eq.Maps()), nn.Flatten())
    other = nn.Sequential(eq.Equitune(TinyUNet(), "C4", output=eq.Maps()), nn.Flatten())
    with pytest.raises(eq.GroupError, match="D4"):
        other.load_state_dict(model.state_dict())


@pytest.mark.parametrize("note", ["C4", None, torch.tensor([1, 2], dtype=torch.uint8), torch.tensor(list(b"[1]"))])
def test_weights_without_a_readable_group_are_refused_and_nothing_changes(note: Any) -> None:
    wrapper = eq.Equitune(Micro(), "C4")
    before = copy.deepcopy(wrapper.state_dict())
    with pytest.raises(eq.GroupError, match="do not say which group they are for"):
        wrapper.load_state_dict({**eq.Equitune(Micro(), "C4").state_dict(), "_extra_state": note})
    assert all(torch.equal(value, before[key]) for key, value in wrapper.state_dict().items())


def test_errors_are_value_errors() -> None:
    assert issubclass(eq.InputError, ValueError)
    assert issubclass(eq.GroupError, eq.EquivariantError)


def test_repr_says_the_group() -> None:
    assert "group=C4" in repr(eq.Equizero(Micro(), "C4"))
    assert isinstance(Anything()(X), Tensor)
