"""The commands that take a model to where it is used."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from continual.bench import model_file
from continual.bench.console import check_target, console, count, size
from continual.bench.model_commands import images_in, load_learner
from continual.bench.progress import ProgressBars
from continual.errors import InputError
from continual.images import check_readable


def export(model: Path, target: Path, *, images: Sequence[Path], unknown_rate: float, weights: Path | None) -> None:
    """Write a model as an ONNX file, or into a folder with the runner beside it."""
    try:
        from continual.export import onnx_runner, writing
    except ImportError as error:
        raise InputError(f"export needs the extra: pip install 'equimos[export]' ({error})") from None
    folder = target.suffix != ".onnx"
    file = target / f"{model.stem}.onnx" if folder else target
    found = model_file.read(model)
    if folder and not target.exists():
        check_target(target)
        target.mkdir()
    check_target(file)
    with ProgressBars(console(stderr=True)) as bars:
        paths = [path for given in images for path in images_in(given)]
        check_readable(paths, bars)
        learner = load_learner(found, weights, torch.device("cpu"))
        agreed = writing.export_onnx(learner, file, images=paths or None, unknown_rate=unknown_rate, progress=bars)
    if folder:
        shutil.copyfile(onnx_runner.__file__, target / "onnx_runner.py")
    out = console()
    out.print(f"{file}: {learner.method}, {count(len(learner.classes), 'class')}, {size(file.stat().st_size)}")
    out.print(
        f"compared with PyTorch on {count(agreed.images, 'image' if paths else 'made-up image')}: "
        f"{agreed.same_answers} answers the same, scores within {agreed.largest:.1g}"
    )
