"""The commands that take a model to where it is used."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from continual import methods
from continual.bench import model_file, options
from continual.bench.console import check_target, console, count, size
from continual.bench.model_commands import images_in, load_learner
from continual.bench.progress import ProgressBars
from continual.errors import InputError
from continual.images import check_readable
from continual.learner import IncrementalLearner


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


def serve(
    model: Path,
    *,
    host: str,
    port: int,
    api_key: str | None,
    unknown_rate: float,
    max_bytes: int,
    max_pixels: int,
    timeout: float,
    batch: int,
    weights: Path | None,
    device: str,
) -> None:
    """Answer over HTTP until interrupted."""
    try:
        import uvicorn

        from continual.serving.app import ServingOptions, make_app
        from continual.serving.model import ModelInUse
        from continual.serving.uploads import Limits
    except ImportError as error:
        raise InputError(f"serve needs the extra: pip install 'equimos[serve]' ({error})") from None
    if not 0 < unknown_rate < 1:
        raise InputError(f"--unknown-rate is a share of images above 0 and below 1, got {unknown_rate}")
    if api_key is not None and not api_key.strip():
        raise InputError("the API key is empty: set one, or none")
    device_ = options.device(device)
    model_file.read(model)

    def load(before: IncrementalLearner[Any] | None) -> IncrementalLearner[Any]:
        found = model_file.read(model)
        if not found.classes:
            raise InputError(f"{model} has learned nothing yet")
        if before is not None and before.backbone.describe() == found.header["backbone"]:
            return methods.load(model, before.backbone, device=device_)
        return load_learner(found, weights, device_)

    loopback = host in ("127.0.0.1", "localhost", "::1")
    in_use = ModelInUse(model, load)
    settings = ServingOptions(
        api_key=api_key,
        unknown_rate=unknown_rate,
        limits=Limits(max_bytes, max_pixels),
        timeout=timeout,
        batch=batch,
        hosts=("127.0.0.1", "localhost", "[", "::1") if loopback else ("*",),
    )
    if not loopback and api_key is None:
        console(stderr=True).print(f"note: anyone who reaches {host} is answered; set EQUIMOS_API_KEY for a key")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(f"cannot listen at {host}, port {port} ({error.strerror}): choose another --port") from None
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(in_use, settings),
            log_level="warning",
            server_header=False,
            limit_concurrency=1024,
            timeout_keep_alive=int(timeout),
            timeout_graceful_shutdown=int(timeout) + 1,
        )
    )
    learner = in_use.now.learner
    classes = count(len(learner.classes), "class")
    where = f"{host}:{listening.getsockname()[1]}"
    console(stderr=True).print(f"{model}: {learner.method}, {classes}, at http://{where} (Ctrl+C stops it)")
    server.run([listening])
