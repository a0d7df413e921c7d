"""`equimos equivariance check`: is this model equivariant, element by element, and how stable are its answers?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.table import Table
from torch import Tensor, nn

from continual import options
from continual.backbones.loading import read_weights
from continual.console import STDOUT, add_row, check_target, console, count, new_table, show, write_text
from continual.data.images import image_files, open_image
from continual.documents import refusal
from continual.errors import InputError
from continual.experiments.equivariance.config import ModelConfig, WrapperConfig
from continual.experiments.equivariance.files import is_tuned, load_tuned
from continual.experiments.equivariance.models import Classifier, is_learner, load_classifier, of_learner
from continual.experiments.equivariance.symmetry import wrapped
from continual.seeding import generator
from continual.symmetry.views import refusals
from equivariant.checks.equivariance import (
    INTERPOLATED_TOLERANCE,
    TOLERANCE,
    ElementErrors,
    equivariance_error,
    orbit_answers,
    orbit_consistency,
)
from equivariant.checks.report import EquivarianceReport, default_layers, equivariance_report
from equivariant.groups import FiniteGroup, as_group
from equivariant.motions import Motion


def check(
    model: str,
    group_name: str | None = None,
    images: Path | None = None,
    *,
    weights: Path | None = None,
    model_args: Sequence[str] = (),
    size: int | None = None,
    wrapper: str | None = None,
    number: int = 8,
    float64: bool = False,
    report: Path | None = None,
    json_file: Path | None = None,
    device: str = "auto",
) -> bool:
    """Measure a model, print a table and the verdict, and return whether it is equivariant."""
    if json_file is not None:
        check_target(json_file)
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
    device_ = options.device(device)
    config = parse_wrapper(wrapper or "plain")
    with refusals():
        group = as_group(group_name) if group_name else None
    found, tuned_group, whole = open_model(model, weights, model_args, size, device_)
    group = group or tuned_group or as_group("C4")
    if whole is None:
        whole = wrapped(config, found.features, found.head, group)
    elif wrapper is not None:
        raise InputError(f"{model} holds its own wrapper: leave out --wrapper")
    whole = whole.to(device_).eval()
    x, source = some_images(found, images, number)
    x = x.to(device_)
    with refusals():
        if report is not None:
            written: EquivarianceReport | None = equivariance_report(
                whole, group, x, layers=_layers(whole, found.features), float64=float64
            )
            assert written is not None
            errors = written.elements
        else:
            written, errors = None, equivariance_error(whole, group, x, float64=float64)
        scores = found.head is not None or found.classes is not None
        consistency = orbit_consistency(orbit_answers(whole, group, x)) if scores else None
    limits = tolerances(group, torch.float64 if float64 else x.dtype)
    good = all(e <= limit for e, limit in zip(errors.errors, limits, strict=True))
    record = _record(found.name, config, errors, limits, consistency, source, good)
    if json_file is not None:
        write_text(json_file, json.dumps(record, indent=1) + "\n")
    if json_file != STDOUT:
        show(_table(group, errors, limits))
        console().print(_verdict(record))
    if report is not None and written is not None:
        _write(report, written, record)
        console(stderr=True).print(f"report: {', '.join(str(p) for p in sorted(report.glob('equivariance.*')))}")
    return good


def open_model(
    model: str,
    weights: Path | None,
    model_args: Sequence[str],
    size: int | None,
    device: torch.device,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] = (),
) -> tuple[Classifier, FiniteGroup | None, nn.Module | None]:
    """Return a classifier by name or file and, if it comes from `tune`, its group and its whole wrapped model.

    `classes` and `templates` make the prompts of CLIP.
    """
    path, arguments = Path(model), options.assignments("--model-arg", model_args)
    if path.is_dir():
        raise InputError(f"{model} is a folder: name a model file, or a model such as 'resnet50.a1_in1k'")
    if path.suffix == ".safetensors":
        _, metadata = read_weights(path)
        if is_tuned(metadata):
            return load_tuned(path, device)
        if is_learner(metadata):
            return of_learner(path, weights, device), None, None
        if weights is not None:
            raise InputError(f"{model} and --weights {weights} both give weights: leave one of them out")
        weights = path
    preparation = {}
    for key in list(arguments):
        if key in ("mean", "std", "crop_pct", "interpolation"):
            preparation[key] = arguments.pop(key)
    name = None if weights == path else model
    values = {"name": name, "weights": weights, "args": arguments, "preprocessing": preparation, "size": size}
    try:
        config = ModelConfig.model_validate({**values, **({"templates": list(templates)} if templates else {})})
    except ValidationError as error:
        raise refusal(path, error, ModelConfig) from None
    found = load_classifier(config, classes)
    return replace(found, features=found.features.to(device), head=found.head and found.head.to(device)), None, None


def parse_wrapper(text: str) -> WrapperConfig:
    """Read a wrapper and its options from the command line.

    >>> parse_wrapper("equizero,proxy=similarity").proxy
    'similarity'
    """
    name, *pairs = text.split(",")
    try:
        return WrapperConfig(wrapper=name.strip(), **options.assignments("--wrapper", pairs))
    except ValidationError as error:
        raise refusal(Path(f"--wrapper {text}"), error, WrapperConfig) from None


def some_images(found: Classifier, folder: Path | None, number: int) -> tuple[Tensor, str]:
    """Return inputs (n, 3, H, W), evenly from a folder's images or random, and where they come from."""
    if folder is None:
        draw = torch.randn(number, 3, *found.preprocessing.size, generator=generator(0, "images to check with"))
        return draw, f"{count(number, 'random image')}: real ones say more (--images DIR)"
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    paths = image_files(folder)
    if not paths:
        raise InputError(f"{folder} holds no images")
    number = min(number, len(paths))
    view = found.preprocessing.evaluation()
    chosen = [paths[i * len(paths) // number] for i in range(number)]
    return torch.stack([view(open_image(path)) for path in chosen]), f"{count(number, 'image')} of {folder}"


def tolerances(group: FiniteGroup, dtype: torch.dtype) -> list[float]:
    """Return the largest error allowed for each element: rounding for exact ones, more for interpolated ones."""
    exact = [not isinstance(element, Motion) or element.exact for element in group.elements]
    return [TOLERANCE.get(dtype, 1e-5) if e else INTERPOLATED_TOLERANCE for e in exact]


def _layers(whole: nn.Module, network: nn.Module) -> list[str]:
    """Return the names of the network's layers in the whole model, then of the model's own."""
    place = next((name for name, module in whole.named_modules() if module is network), None)
    inner = [] if place is None else [f"{place}.{name}" for name in default_layers(network)]
    return [*inner, *default_layers(whole)]


def _record(
    name: str,
    config: WrapperConfig,
    errors: ElementErrors,
    limits: Sequence[float],
    consistency: float | None,
    source: str,
    good: bool,
) -> dict[str, Any]:
    elements = zip(errors.group.names, errors.errors, limits, strict=True)
    return {
        "model": name,
        "wrapper": config.wrapper,
        "group": errors.group.name,
        "images": source,
        "equivariant": good,
        "worst": errors.worst,
        "largest_error": errors.largest,
        "consistency": consistency,
        "elements": [{"element": n, "error": e, "tolerance": t} for n, e, t in elements],
    }


def _table(group: FiniteGroup, errors: ElementErrors, limits: Sequence[float]) -> Table:
    table = new_table("element", "relative error", "allowed", "action", "")
    for element, name, error, limit in zip(group.elements, group.names, errors.errors, limits, strict=True):
        exact = not isinstance(element, Motion) or element.exact
        mark = "ok" if error <= limit else "worst" if name == errors.worst else "too large"
        add_row(table, name, f"{error:.1e}", f"{limit:.0e}", "exact" if exact else "interpolated", mark)
    return table


def _verdict(record: dict[str, Any]) -> str:
    verdict = "equivariant" if record["equivariant"] else "NOT equivariant"
    lines = [
        f"{record['model']} ({record['wrapper']}) is {verdict} to {record['group']}: its largest error is "
        f"{record['largest_error']:.1e}, for {record['worst']}, on {record['images']}"
    ]
    if record["consistency"] is not None:
        lines.append(f"the same answer over the whole orbit: {record['consistency']:.1%} of the images")
    return "\n".join(lines)


def _write(folder: Path, report: EquivarianceReport, record: dict[str, Any]) -> None:
    details = {**record, "layers": report.layers, "sizes": report.sizes}
    write_text(folder / "equivariance.json", json.dumps(details, indent=1) + "\n")
    write_text(folder / "equivariance.txt", f"{_verdict(record)}\n\n{report}\n")
    report.plot(folder / "equivariance.png")
