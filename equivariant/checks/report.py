"""Where a model loses equivariance: by element, by layer, by image size; as text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from equivariant.actions import Action, Maps, Tokens, Trivial
from equivariant.checks.equivariance import ElementErrors, equivariance_error, input_action, relative_error
from equivariant.errors import InputError
from equivariant.files import save_figure
from equivariant.groups import FiniteGroup, as_group
from equivariant.parts.surgery import evaluating


@dataclass(frozen=True)
class EquivarianceReport:
    """Relative equivariance errors of one model on one batch."""

    elements: ElementErrors
    layers: dict[str, float] = field(default_factory=dict)  #: by layer, of the worst element
    sizes: dict[int, float | None] = field(default_factory=dict)  #: by image size, None if the model refused it

    def __str__(self) -> str:
        parts = [str(self.elements)]
        if self.layers:
            width = max(map(len, self.layers))
            parts.append("\n".join(["by layer", *(f"{name:<{width}}  {e:.2e}" for name, e in self.layers.items())]))
        if self.sizes:
            rows = (f"{size:>5} px  {'refused' if e is None else f'{e:.2e}'}" for size, e in self.sizes.items())
            parts.append("\n".join(["by image size", *rows]))
        return "\n\n".join(parts)

    def plot(self, path: str | Path) -> None:
        """Draw the report into a file (.png, .svg, .pdf); needs matplotlib."""
        from matplotlib.figure import Figure

        from equivariant.style import COLOURS, FAINT, ink

        panels: list[tuple[str, dict[str, float]]] = [
            ("element", dict(zip(self.elements.group.names, self.elements.errors, strict=True))),
            ("layer", self.layers),
            ("image size", {f"{size} px": e for size, e in self.sizes.items() if e is not None}),
        ]
        panels = [(title, values) for title, values in panels if values]
        tallest = max(len(values) for _, values in panels)
        figure = Figure(figsize=(4.2 * len(panels), 1.2 + 0.24 * tallest), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            shown = [min(max(error, 1e-17), 1e3) for error in values.values()]
            axes.barh(list(values), shown, color=COLOURS[0], height=0.7)
            axes.set(xscale="log", xlim=(1e-17, max(10.0, *shown)), title=f"by {title}")
            axes.invert_yaxis()
            axes.axvline(1e-5, color=FAINT, linewidth=0.8, linestyle=":")
            ink(axes)
        figure.supxlabel(f"relative equivariance error, {self.elements.group.name}")
        save_figure(figure, path)


def equivariance_report(
    model: nn.Module,
    group: FiniteGroup | str,
    x: Tensor,
    *,
    layers: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    actions: Mapping[str, Action] | None = None,
    **options: Any,
) -> EquivarianceReport:
    """Measure a model on images `x` (B, C, H, W).

    - `layers`: names of sub-modules; by default the children, and the members of children that are lists. A layer's
      output is taken for a map if it is (B, D, h, h), for patch tokens if it is (B, P + h·h, D), for invariant
      otherwise; `actions` says better, by name. What cannot be compared is left out.
    - `sizes`: image sizes to resample `x` to; by default S/2, S and S + 1 for square images S x S, none for others.
      Strided networks care for parity.

    Options as for `equivariance_error`. Raises InputError for an unknown layer, and for sizes of images not square.
    """
    group = as_group(group)
    elements = equivariance_error(model, group, x, **options)
    height, side = x.shape[-2:]
    if sizes is None:
        sizes = (side // 2, side, side + 1) if height == side else ()
    elif sizes and height != side:
        raise InputError(f"images of {height} x {side} cannot be resampled to squares: leave sizes= out")
    by_size: dict[int, float | None] = {}
    for size in sizes:
        resized = x if size == side else functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
        try:
            by_size[size] = equivariance_error(model, group, resized, **options).largest
        except (AssertionError, RuntimeError, ValueError):  # how models refuse a size
            by_size[size] = None
    act = options.get("input") or input_action(model)
    return EquivarianceReport(elements, _layer_errors(model, group, x, act, layers, actions or {}), by_size)


def _layer_errors(
    model: nn.Module,
    group: FiniteGroup,
    x: Tensor,
    act: Action,
    names: Sequence[str] | None,
    actions: Mapping[str, Action],
) -> dict[str, float]:
    names = default_layers(model) if names is None else names
    modules = dict(model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise InputError(f"the model has no layer {unknown[0]!r}: its children are {', '.join(default_layers(model))}")
    watched = {name: modules[name] for name in names}
    plain = _outputs(model, watched, x)
    errors: dict[str, float] = {}
    for g in range(group.order):
        found = _outputs(model, watched, act(group, g, x))
        for name in plain.keys() & found.keys():
            action = actions.get(name) or _guess(plain[name])
            if action is not None and plain[name].shape == found[name].shape:
                error = relative_error(action(group, g, plain[name]), found[name])
                errors[name] = max(errors.get(name, 0.0), error)
    return {name: errors[name] for name in names if name in errors}


def _outputs(model: nn.Module, modules: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Return what the modules give while the model runs on `x`, if it is one tensor over the batch."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim >= 2 and len(output) == len(x):
                seen[name] = output

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def default_layers(model: nn.Module) -> list[str]:
    """Return the names of a model's children, and before each that is a list those of its members."""
    names = []
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            names += [f"{name}.{member}" for member, _ in child.named_children()]
        names.append(name)
    return names


def _guess(output: Tensor) -> Action | None:
    """Return the likely action on a layer's output, None if it cannot be known."""
    if output.ndim == 4:
        return Maps() if output.shape[-1] == output.shape[-2] else None
    if output.ndim == 3:
        counts = ((p, output.shape[1] - p) for p in range(17))
        prefix = next((p for p, n in counts if n > 1 and math.isqrt(n) ** 2 == n), None)
        return None if prefix is None else Tokens(prefix=prefix)
    return Trivial() if output.ndim == 2 else None
