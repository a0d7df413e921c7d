"""How many passes of the backbone an image takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from equivariant.parts.staged import Staged
from equivariant.wrappers import find_wrapper


@dataclass(frozen=True)
class Passes:
    """Views that went through the parts of a model while it was counted, in the order of the parts."""

    views: dict[str, int] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)  #: of a part, for one view

    def per_image(self, images: int) -> float:
        """Return the passes of the whole model for each of so many images."""
        whole = sum(self.operations.values())
        if not whole:
            return self.finished(images)
        return sum(self.views[part] * made for part, made in self.operations.items()) / whole / images

    def finished(self, images: int) -> float:
        """Return how many views of each of so many images went through the last part."""
        return next(reversed(self.views.values()), 0) / images


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count what goes through the model of the wrapper in `model`, or through `model` itself, for a while.

    Raises InputError if there are several wrappers.
    """
    wrapper = find_wrapper(model)
    inner, passes = model if wrapper is None else wrapper.model, Passes()
    if isinstance(inner, Staged):
        inner.early = _counting(inner.early, "early", passes)  # type: ignore[method-assign]
        inner.late = _counting(inner.late, "late", passes)  # type: ignore[method-assign]
        try:
            yield passes
        finally:
            del inner.early, inner.late
        return

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        passes.views["whole"] = passes.views.get("whole", 0) + args[0].shape[0]

    handle = inner.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


def _counting(part: Callable[..., Any], name: str, passes: Passes) -> Callable[..., Any]:
    """Return the part of a model, which notes its views, and the operations of the first it is called for."""

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        passes.views[name] = passes.views.get(name, 0) + x.shape[0]
        if name in passes.operations:
            return part(x, *args, **kwargs)
        with FlopCounterMode(display=False) as counter:
            output = part(x, *args, **kwargs)
        passes.operations[name] = counter.get_total_flops() / x.shape[0]
        return output

    return run
