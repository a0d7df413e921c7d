"""A zoo of tiny random models, and every wrapper around them.

timm and torchvision are imported where they are used: the processes of the distributed test need neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.wrappers import wrappers

Build = Callable[[], nn.Module]


def seeded(build: Build) -> nn.Module:
    """Return a new model whose weights are the same every time; the global generator is as before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


class Micro(nn.Module):
    """The cheapest model that respects no symmetry: a strided convolution and a linear layer, 3 x 6 x 6 → K."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Tanh())
        self.second = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class TinyUNet(nn.Module):
    """Score maps (B, K, H, W) of images (B, 3, H, W): down by a stride, up again, and a skip."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU())
        self.down = nn.Sequential(nn.Conv2d(6, 8, 4, stride=2, padding=1), nn.GELU())
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.leave = nn.Conv2d(12, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enter(x)
        return self.leave(torch.cat([skip, self.up(self.down(skip))], dim=1))


class Several(nn.Module):
    """Scores and a map together, as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyUNet()

    def forward(self, x: Tensor) -> dict[str, Any]:
        maps = self.net(x)
        return {"map": maps, "pair": (maps[:, :2], maps[..., :3, :].mean((2, 3)))}


def vit(depth: int = 2, registers: int = 2, **options: Any) -> nn.Module:
    import timm

    options = {"num_classes": 4, **options}
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        reg_tokens=registers,
        **options,
    )


def convnext() -> nn.Module:
    import timm

    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 16), num_classes=4)


def resnet() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=4, channels=(8, 8, 8, 16), stem_width=8)


def mobilenet() -> nn.Module:
    import torchvision

    model = torchvision.models.mobilenet_v2(
        width_mult=0.1, num_classes=4, inverted_residual_setting=[[1, 16, 1, 2], [6, 24, 1, 2]], dropout=0.0
    )
    model.features[-1] = nn.Identity()
    model.classifier = nn.Linear(8, 4)
    return model


#: name -> (how to build it, side of its images, how its output moves)
ZOO: dict[str, tuple[Build, int, Any]] = {
    "micro": (Micro, 6, eq.Trivial()),
    "timm ViT": (vit, 16, eq.Trivial()),
    "timm ViT tokens": (lambda: Method(vit(num_classes=0), "forward_features"), 16, eq.Tokens(prefix=3)),
    "timm ConvNeXt": (convnext, 32, eq.Trivial()),
    "timm ResNet": (resnet, 33, eq.Trivial()),
    "torchvision MobileNet": (mobilenet, 24, eq.Trivial()),
    "U-Net": (TinyUNet, 8, eq.Maps()),
    "several outputs": (Several, 8, {"map": eq.Maps(), "pair": (eq.Maps(), eq.Trivial())}),
}


class Method(nn.Module):
    """One method of a model as a module of its own."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Any:
        return getattr(self.model, self.name)(x)


class Anything(nn.Module):
    """A score of any view: a fixed nonlinear function of its first pixels, or of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Any) -> Tensor:
        while not isinstance(x, Tensor):
            x = next(iter(x.values() if isinstance(x, dict) else x))
        flat = x.flatten(1)[:, :3]
        return (flat * x.new_tensor([1.0, -0.7, 0.4])[: flat.shape[1]]).sum(1) * self.gain


def first_leaf_entropy(output: Any, sharpness: float = 1.0) -> Tensor:
    """A proxy loss for any output."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return eq.entropy(sharpness * output.flatten(1))


def sharp_entropy(output: Any) -> Tensor:
    """A proxy loss that differs much between the outputs of random weights."""
    return first_leaf_entropy(output, 30.0)


class Whole(eq.Staged):
    """Any model, cut before its first layer: what is scored early is the image."""

    width = 3

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def early(self, x: Tensor) -> Tensor:
        return x

    def late(self, state: Tensor) -> Any:
        return self.model(state)


#: Groups that move square images exactly.
GROUPS = ["C1", "C2", "C4", "D1", "D2", "D4", "mirror_h", "mirror_v"]
GROUPS += ["channels3", "channel_cycle3", "C4 x channel_cycle3"]

#: Every registered wrapper, made around a model: those that score views with a score of theirs, the others as they are.
WRAPPERS: dict[str, Callable[..., eq.OrbitWrapper]] = {
    **wrappers(),
    "lambda": lambda m, g, **o: eq.LambdaEquitune(m, g, network=Anything(), **o),
    "lambda on input": lambda m, g, **o: eq.LambdaEquitune(
        m, g, network=Anything(), reads="input", positive="softplus", **o
    ),
    "equizero": lambda m, g, **o: eq.Equizero(m, g, proxy=first_leaf_entropy, **o),
    "anytime": lambda m, g, **o: eq.AnytimeOrbit(m, g, score=Anything(), proxy=sharp_entropy, limit=0.1, **o),
    "canonicaliser": lambda m, g, **o: eq.Canonicaliser(m, g, score=Anything(), noise=False, **o),
    "pruned": lambda m, g, **o: eq.PrunedOrbit(Whole(m), g, score=Anything(), keep=min(2, eq.as_group(g).order), **o),
}
