"""Reach into a model you already have: take its head off, wrap a sub-module, evaluate it and leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from equivariant.errors import InputError
from equivariant.parts.two_heads import take_off_two


def take_off_head(model: nn.Module, name: str | None = None) -> tuple[nn.Module, nn.Module]:
    """Split a classifier, in place, into what gives features and its last layer: `(features, head)`.

    The sub-module `name` is replaced by the identity and returned. Without a name, the head is what a timm model calls
    its classifier, or the child named `fc`, `classifier`, `head` or `heads`. Of a model with two heads both are taken:
    distilled ones (DeiT, LeViT, …) then give the features of both, (n, 2·D), VOLO, which classifies tokens, its tokens
    (n, N, D). Raises InputError if there is no head.

        features, head = take_off_head(model)
        model = LambdaEquitune(features, "C4", head=head)
    """
    if name is None and (two := take_off_two(model)) is not None:
        return two
    name = name or _head_name(model)
    parent, child = _parent(model, name)
    head = parent.get_submodule(child)
    if isinstance(head, nn.Identity):
        raise InputError(f"{name!r} of this {type(model).__name__} is the identity already: it has no head to take off")
    setattr(parent, child, nn.Identity())
    return model, head


def wrap_module(model: nn.Module, name: str, wrapper: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace, in place, the sub-module `name` by `wrapper` of it, and return the model.

        wrap_module(model, "backbone", lambda m: Equitune(m, "C4", output=Maps()))

    The rest of the model stays outside; whether the whole is then equivariant, `equivariant.checks` can say.
    Raises InputError if there is no such sub-module.
    """
    parent, child = _parent(model, name)
    setattr(parent, child, wrapper(parent.get_submodule(child)))
    return model


@contextmanager
def evaluating(model: Callable[..., object]) -> Iterator[None]:
    """Put a module and its parts in evaluation mode without gradients, and back afterwards."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return what holds the sub-module, and its name there."""
    try:
        model.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"{type(model).__name__} has no sub-module {name!r}: its children are {children}") from error
    if not name:
        raise InputError("name a sub-module; to wrap the whole model, call the wrapper on it")
    above, _, child = name.rpartition(".")
    return model.get_submodule(above), child


def _head_name(model: nn.Module) -> str:
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        classifier = get_classifier()
        for name, module in model.named_modules():
            if module is classifier:
                return name
    for name in ("fc", "classifier", "head", "heads"):
        if isinstance(getattr(model, name, None), nn.Module):
            return name
    children = ", ".join(child for child, _ in model.named_children())
    raise InputError(f"cannot tell which part of this {type(model).__name__} is its head: name one of {children}")
