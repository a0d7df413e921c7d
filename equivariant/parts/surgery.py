"""Reach into a model you already have: take its head off, or wrap one of its sub-modules."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from equivariant.errors import InputError


def take_off_head(model: nn.Module, name: str | None = None) -> tuple[nn.Module, nn.Module]:
    """Split a classifier, in place, into what gives features and its last layer: `(features, head)`.

    The model's sub-module `name` is replaced by the identity and returned. Without a name, the head is what a
    timm model calls its classifier, or the child named `fc`, `classifier`, `head` or `heads`, as in
    torchvision. Raises InputError if there is none.

        features, head = take_off_head(model)
        model = LambdaEquitune(features, "C4", head=head)
    """
    name = name or _head_name(model)
    head = _parent(model, name).get_submodule(name.rpartition(".")[2])
    if isinstance(head, nn.Identity):
        raise InputError(f"{name!r} of this {type(model).__name__} is the identity already: it has no head to take off")
    setattr(_parent(model, name), name.rpartition(".")[2], nn.Identity())
    return model, head


def wrap_module(model: nn.Module, name: str, wrapper: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace, in place, the sub-module `name` by `wrapper` of it, and return the model.

        wrap_module(model, "backbone", lambda m: Equitune(m, "C4", output=Maps()))

    The rest of the model stays outside; whether the whole is then equivariant, `equivariant.checks` can say.
    Raises InputError if there is no such sub-module.
    """
    parent, child = _parent(model, name), name.rpartition(".")[2]
    setattr(parent, child, wrapper(parent.get_submodule(child)))
    return model


def _parent(model: nn.Module, name: str) -> nn.Module:
    try:
        model.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"{type(model).__name__} has no sub-module {name!r}: its children are {children}") from error
    if not name:
        raise InputError("name a sub-module; to wrap the whole model, call the wrapper on it")
    return model.get_submodule(name.rpartition(".")[0])


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
