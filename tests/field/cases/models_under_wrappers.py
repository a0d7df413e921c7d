"""Models as people have them, under the wrappers of `equivariant`."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.checks.equivariance import TOLERANCE
from tests.field.case import Case
from tests.support.zoo import Micro, TinyUNet, vit

SECTION = "Models under the wrappers"


class Pair(NamedTuple):
    scores: Tensor
    features: Tensor


@dataclass
class Named:
    scores: Tensor
    features: Tensor
    loss: Tensor | None = None


class Keyed(OrderedDict[str, Any]):
    """An ordered dict whose entries are attributes as well, without those that are None, as transformers has them."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Returns(nn.Module):
    """Scores and features of `Micro`, and a map, in whatever a function puts them."""

    def __init__(self, pack: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.maps, self.pack = Micro(), TinyUNet(), pack

    def forward(self, x: Tensor) -> Any:
        scores = self.net(x)
        return self.pack(scores, scores.tanh(), self.maps(x))


class Wide(nn.Module):
    """Scores of images with any number of channels, by a convolution."""

    def __init__(self, channels: int = 3, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def staged(model: nn.Module, width: int = 3) -> eq.StagedPair:
    return eq.StagedPair(nn.Identity().train(model.training), model, width)


#: every wrapper around a model, as a user makes it: with no more than it needs
KINDS: dict[str, Callable[..., eq.OrbitWrapper]] = {
    "equitune": eq.Equitune,
    "lambda": lambda model, group, **options: eq.LambdaEquitune(model, group, **{"width": 4, **options}),
    "equizero": eq.Equizero,
    "anytime": eq.AnytimeOrbit,
    "canonicaliser": eq.Canonicaliser,
    "max": eq.OrbitMax,
    "pruned": lambda model, group, **options: eq.PrunedOrbit(staged(model), group, **options),
}


def images(side: int = 6, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(0)).to(dtype)


def each(pack: Callable[..., Any], look: Callable[[Any], None], guessed: bool = False, **options: Any) -> None:
    """Check every wrapper's answers: in the model's container, equivariant over all elements, each image by itself."""
    for make in KINDS.values():
        wrapper, x = make(Returns(pack).double().eval(), "D4", **options), images()
        with warnings.catch_warnings(record=True) as said, torch.no_grad():
            warnings.simplefilter("always")
            answer = wrapper(x)
            look(answer)
            eq.assert_equivariant(wrapper, "D4", x)
            alone = wrapper(x[1:2])
        assert any("shapes decide" in str(one.message) for one in said) is guessed
        for whole, own in zip(answer, alone, strict=True):
            if isinstance(whole, Tensor):
                torch.testing.assert_close(own, whole[1:2])


def _dicts(folder: Path) -> None:
    def look(answer: Any) -> None:
        assert type(answer) is OrderedDict
        assert {key: tuple(value.shape) for key, value in answer.items()} == {"out": (3, 4, 6, 6), "aux": (3, 4)}

    each(lambda scores, _, maps: OrderedDict(out=maps, aux=scores), look, guessed=True)
    for make in KINDS.values():
        wrapper = make(Returns(lambda scores, _, maps: {"out": maps, "aux": scores}).eval(), "C4")
        with pytest.warns(UserWarning, match=r"output\['out'\] \(\d+, 4, 6, 6\): Maps.*output\['aux'\].*Trivial"):
            wrapper(images(dtype=torch.float32))


def _explicit(folder: Path) -> None:
    actions = {"out": eq.Maps(), "aux": eq.Trivial()}
    each(lambda scores, _, maps: {"out": maps, "aux": scores, "loss": None}, lambda answer: None, output=actions)


def _tuples(folder: Path) -> None:
    def look(kind: type) -> Callable[[Any], None]:
        def check(answer: Any) -> None:
            assert type(answer) is kind
            assert len(answer) == 2

        return check

    each(lambda scores, features, _: Pair(scores, features), look(Pair))
    each(lambda scores, features, _: (scores, features), look(tuple))
    each(lambda scores, features, _: [scores, features], look(list))


def _objects(folder: Path) -> None:
    for make in KINDS.values():
        wrapper, x = make(Returns(lambda scores, features, _: Named(scores, features)).eval(), "C4"), images()
        answer = wrapper.double()(x)
        assert isinstance(answer, Named)
        assert answer.loss is None
        eq.assert_equivariant(wrapper, "C4", x)
        keyed = make(Returns(lambda scores, features, _: Keyed(logits=scores, loss=None)).double().eval(), "C4")(x)
        assert type(keyed) is Keyed
        assert keyed.logits.shape == (3, 4)


def _unknown_shape(folder: Path) -> None:
    for make in KINDS.values():
        wrapper = make(Returns(lambda scores, *_: scores[:, None].expand(-1, 5, -1)).eval(), "C4")
        with pytest.raises(eq.InputError, match=r"cannot tell from its shape .*Tokens\(prefix=…\)"):
            wrapper(images(dtype=torch.float32))


def _classifier(folder: Path) -> None:
    wrapper, x = eq.LambdaEquitune(vit(num_classes=7).eval(), "D4"), images(16, dtype=torch.float32)
    nn.init.normal_(wrapper.network.layers[-1].weight)
    assert wrapper(x).shape == (3, 7)
    eq.assert_equivariant(wrapper, "D4", x)
    eq.assert_equivariant(wrapper, "D4", x, float64=True)


def _modes(folder: Path) -> None:
    for make in KINDS.values():
        for training in (False, True):
            wrapper = make(Micro().train(training), "C4")
            own = [module for module in wrapper.modules() if any(True for _ in module.parameters())]
            assert {module.training for module in own} == {training}
        wrapper = make(Micro().eval(), "C4")
        assert torch.equal(wrapper(images(dtype=torch.float32)), wrapper(images(dtype=torch.float32)))


def _dtypes(folder: Path) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        for name, make in KINDS.items():
            options = {"width": 5} if name == "lambda" else {}
            wrapper, x = make(Wide(dtype=dtype).eval(), "D4", **options), images(dtype=dtype)
            assert {p.dtype for p in wrapper.parameters()} == {dtype}
            with torch.no_grad():
                assert wrapper(x).dtype == dtype
            eq.assert_equivariant(wrapper, "D4", x, tolerance=TOLERANCE[dtype])


def _channels(folder: Path) -> None:
    for channels in (1, 5, 12):
        for name, make in KINDS.items():
            options = {"width": 5} if name == "lambda" else {}
            model, x = Wide(channels).eval(), images(channels=channels, dtype=torch.float32)
            whole = name == "pruned"
            wrapper = eq.PrunedOrbit(staged(model, channels), "C4") if whole else make(model, "C4", **options)
            eq.assert_equivariant(wrapper, "C4", x)
    with pytest.raises(eq.InputError, match="takes 3 channels, but the images have 5"):
        eq.Canonicaliser(Wide(5), "C4", channels=3)(images(channels=5, dtype=torch.float32))


def _two_heads(folder: Path) -> None:
    import timm
    from timm.models.volo import VOLO

    small = {"img_size": 32, "num_classes": 5}
    for name, options, width in (
        ("deit_tiny_distilled_patch16_224", {**small, "embed_dim": 24, "depth": 1, "num_heads": 2}, 48),
        ("levit_128s", {"num_classes": 5, "img_size": 64}, 768),
        ("repvit_m0_9", {"num_classes": 5}, 768),
        ("volo", {**small, "layers": (1, 1), "embed_dims": (24, 24), "num_heads": (2, 2)}, 24),
    ):
        model = VOLO(**options) if name == "volo" else timm.create_model(name, **options)
        x = images(options.get("img_size", 32), dtype=torch.float32)
        model.eval()
        with torch.no_grad():
            before, count = model(x), sum(p.numel() for p in model.parameters())
            features, head = eq.take_off_head(model)
            assert features(x).shape[-1] == width
            assert torch.equal(head(features(x)), before), name
            assert sum(p.numel() for part in (features, head) for p in part.parameters()) == count
            assert eq.LambdaEquitune(features, "C4", head=head)(x).shape == before.shape
        with pytest.raises(eq.InputError):
            eq.take_off_head(features)


def _one_number(folder: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, 0, 0] + x.mean((1, 2, 3))

    assert eq.equivariance_error(Mean(), "C4", images()).largest > 1e-3
    for wrapper in (eq.Equitune(Mean(), "D4"), eq.OrbitMax(Mean(), "D4")):
        assert wrapper(images()).shape == (3,)
        eq.assert_equivariant(wrapper, "D4", images())


def _arguments(folder: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Micro()

        def forward(self, x: Tensor, shift: Tensor, scale: float, mask: dict[str, Tensor]) -> Tensor:
            return (self.net(x) + shift[:, None]) * scale * mask["kept"][:, None]

    shift, kept, x = torch.tensor([0.0, 1.0, 5.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double(), images()
    for name, make in KINDS.items():
        if name == "pruned":
            continue  # what `early` does not take, it is not given
        wrapper = make(Shifted().double().eval(), "D4")
        answer = wrapper(x, shift, scale=2.0, mask={"kept": kept})
        moved = wrapper(eq.act("D4", 3, x), shift, scale=2.0, mask={"kept": kept})
        torch.testing.assert_close(moved, answer, rtol=1e-12, atol=1e-12)
        alone = wrapper(x[2:], shift[2:], scale=2.0, mask={"kept": kept[2:]})
        torch.testing.assert_close(alone, answer[2:])
        with pytest.raises(eq.InputError, match="has shape .2,., but the batch holds 3 images"):
            wrapper(x, shift[:2], scale=1.0, mask={"kept": kept})


def _weights(folder: Path) -> None:
    wrapper = eq.LambdaEquitune(Micro(), "C4", width=4)
    for state, message in (
        (Micro().state_dict(), "those of the bare model: load them into the `model`"),
        (eq.Equitune(Micro(), "C4").state_dict(), r"lack 'network\.layers\.0\.bias' and 5 other names"),
        ({**wrapper.state_dict(), "_extra_state": torch.zeros(900, dtype=torch.uint8)}, "do not say which group"),
        ({f"module.{name}": value for name, value in wrapper.state_dict().items()}, "hold 'module"),
    ):
        before = copy.deepcopy(wrapper.state_dict())
        with pytest.raises(eq.GroupError, match=message) as caught:
            wrapper.load_state_dict(state)
        assert len(str(caught.value)) < 250
        assert all(torch.equal(value, before[name]) for name, value in wrapper.state_dict().items())


def _functions(folder: Path) -> None:
    x = images()
    for make in KINDS.values():
        wrapper = make(Micro().double().eval(), "C4").double().eval()
        held = dict(wrapper.named_parameters())
        with torch.no_grad():
            expected = wrapper(x)
            torch.testing.assert_close(torch.func.functional_call(wrapper, held, (x,)), expected)
            torch.testing.assert_close(torch.func.vmap(wrapper)(x[:, None])[:, 0], expected)
        gradients = torch.func.grad(lambda held, w=wrapper: torch.func.functional_call(w, held, (x,)).sum())(held)
        wrapper(x).sum().backward()
        for name, parameter in wrapper.named_parameters():
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients[name], wanted)


def _case(given: str, happens: str, reported: str, check: Callable[[Path], None], row: str | None = None) -> Case:
    return Case(SECTION, given, happens, reported, check, row)


CASES = [
    _case(
        "a segmentation model that returns a dict such as {'out': maps, 'aux': scores}",
        "the same dict comes back; what has the image's proportions is moved back as a map, what has no places counts "
        "as invariant, and a warning says which is which",
        "test-time augmentation wrappers that expect one tensor fail on torchvision's segmentation models",
        _dicts,
    ),
    _case(
        "the same dict, and output={'out': Maps(), 'aux': Trivial()}",
        "what was said is done, without a warning; entries that are None stay None",
        "models that return a loss of None beside their outputs, as transformers does",
        _explicit,
    ),
    _case(
        "a model that returns a tuple, a list or a named tuple",
        "the same kind comes back, each tensor by itself",
        "inception and distilled models return named or plain tuples in training mode",
        _tuples,
    ),
    _case(
        "a model that returns a dataclass, or an ordered dict with attributes such as transformers' ModelOutput",
        "an object of the same kind comes back",
        "wrappers around transformers models that fail with AttributeError on their outputs",
        _objects,
    ),
    _case(
        "an output (B, N, D) without output=",
        "refused: tokens move with the image and queries do not, so say Tokens(…) or Trivial()",
        "token features averaged without being moved back, a silent fault",
        _unknown_shape,
    ),
    _case(
        "a whole classifier in LambdaEquitune, without its head taken off",
        "λ reads the scores; their number is found by running the model once on images without values",
        "shape mismatches where a width was guessed from the features' attribute",
        _classifier,
    ),
    _case(
        "a model in evaluation mode in a new wrapper",
        "the wrapper is in evaluation mode too, and answers alike twice",
        "freshly made wrappers in training mode around frozen models",
        _modes,
        row="",
    ),
    _case(
        "a model in float64, bfloat16 or float16",
        "what the wrapper adds has the model's dtype and device",
        "expected scalar type Half but found Float, a common title",
        _dtypes,
        row="",
    ),
    _case(
        "a model for 1, 5 or 12 channels",
        "the score network of a canonicaliser has as many as the model's first convolution",
        "multispectral models in tools that assume three channels",
        _channels,
        row="",
    ),
    _case(
        "a distilled or two-headed classifier (DeiT distilled, LeViT, RepViT, VOLO) in take_off_head",
        "both heads come off, and head(features(x)) is the model's own answer to the bit",
        "get_classifier returns a tuple for timm's distilled models",
        _two_heads,
    ),
    _case(
        "a model that returns one number for each image, (B,)",
        "it is wrapped and checked as any other",
        "regression models, for which dimension 1 is out of range",
        _one_number,
        row="",
    ),
    _case(
        "a model that takes more than images, by place or by name",
        "tensors (B, …) follow their images' views, all else is passed on; a tensor of another length is refused",
        "diffusion and multi-modal models with a time step, a mask or a prompt",
        _arguments,
    ),
    _case(
        "a state dict of the bare model, of another wrapper, or saved under DataParallel, for a wrapper",
        "one sentence says what is wrong; nothing is loaded and no bytes are printed",
        "pages of missing and unexpected keys in loading threads",
        _weights,
    ),
    _case(
        "torch.func: functional_call, grad and vmap over a wrapper",
        "they work; under vmap, which hides values, every view is run and NaN is not looked for",
        "data-dependent control flow errors of vmap over wrapped models",
        _functions,
    ),
]
