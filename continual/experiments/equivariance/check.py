"""Is a model equivariant, element by element, and how stable are its answers?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from continual import files
from continual.errors import InputError
from continual.experiments.equivariance.config import PLAIN, WrapperConfig
from continual.experiments.equivariance.data import some_images
from continual.experiments.equivariance.files import Opened
from continual.experiments.equivariance.symmetry import wrapped
from continual.symmetry.views import group_named, refusals
from equivariant.checks import equivariance
from equivariant.checks.report import EquivarianceReport, default_layers, equivariance_report
from equivariant.groups import FiniteGroup


@dataclass(frozen=True)
class Checked:
    """What was found of a model: `record` as JSON has it, and a report if one was wanted."""

    record: dict[str, Any]
    exact: list[bool]  #: of each element, whether it acts without interpolation
    report: EquivarianceReport | None

    @property
    def equivariant(self) -> bool:
        """Whether every element's error is allowed."""
        return bool(self.record["equivariant"])

    @property
    def verdict(self) -> str:
        """The answer in a sentence or two."""
        found = self.record
        lines = [
            f"{found['model']} ({found['wrapper']}) is {'' if self.equivariant else 'NOT '}equivariant to "
            f"{found['group']}: its largest error is {found['largest_error']:.1e}, for {found['worst']}, on "
            f"{found['images']}"
        ]
        if found["consistency"] is not None:
            lines.append(f"the same answer over the whole orbit: {found['consistency']:.1%} of the images")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write the report into a folder, as JSON, text and a picture."""
        assert self.report is not None
        details = {**self.record, "layers": self.report.layers, "sizes": self.report.sizes}
        files.write_json(folder / "equivariance.json", details)
        files.write_text(folder / "equivariance.txt", f"{self.verdict}\n\n{self.report}\n")
        self.report.plot(folder / "equivariance.png")


def check(
    opened: Opened,
    group: FiniteGroup | None,
    wrapper: WrapperConfig | None,
    images: Path | None,
    number: int,
    *,
    float64: bool = False,
    with_report: bool = False,
) -> Checked:
    """Measure a model on images of a folder, or random ones; by default plain, and to its own group or C4."""
    found, whole = opened.classifier, opened.whole
    group = group or opened.group or group_named("C4")
    config = wrapper or WrapperConfig(wrapper=PLAIN)
    if whole is None:
        whole = wrapped(config, found.features, found.head, group)
    elif wrapper is not None:
        raise InputError(f"{found.name} holds its own wrapper: leave out --wrapper")
    whole = whole.to(opened.device).eval()
    x, source = some_images(found, images, number)
    x = x.to(opened.device)
    report = None
    with refusals():
        if with_report:
            report = equivariance_report(whole, group, x, layers=_layers(whole, found.features), float64=float64)
        errors = report.elements if report else equivariance.equivariance_error(whole, group, x, float64=float64)
        consistency = None
        if found.head is not None or found.classes is not None:
            consistency = equivariance.orbit_consistency(equivariance.orbit_answers(whole, group, x))
    limits = equivariance.tolerances(group, torch.float64 if float64 else x.dtype)
    elements = list(zip(group.names, errors.errors, limits, strict=True))
    record = {
        "model": found.name,
        "wrapper": config.wrapper,
        "group": group.name,
        "images": source,
        "equivariant": all(error <= limit for _, error, limit in elements),
        "worst": errors.worst,
        "largest_error": errors.largest,
        "consistency": consistency,
        "elements": [{"element": n, "error": e, "tolerance": t} for n, e, t in elements],
    }
    return Checked(record, equivariance.are_exact(group), report)


def _layers(whole: nn.Module, network: nn.Module) -> list[str]:
    """Return the names of the network's layers in the whole model, then of the model's own."""
    place = next((name for name, module in whole.named_modules() if module is network), None)
    inner = [] if place is None else [f"{place}.{name}" for name in default_layers(network)]
    return [*inner, *default_layers(whole)]
