"""What is needed to repeat a run: where it ran, on which images, with which weights."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continual import distributed
from continual.data.inputs import open_image
from continual.datasets.streams import Stream
from continual.learning.checkpoints import digest
from continual.learning.extractor import Progress
from continual.learning.learner import IncrementalLearner
from continual.learning.model_file import versions


def surroundings(device: str) -> dict[str, Any]:
    """Return versions, device, machine and git state (None outside a checkout)."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or device
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": {"name": device, "model": name, "threads": torch.get_num_threads(), "cores": os.cpu_count()},
        "processes": distributed.count(),
        "system": platform.platform(),
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Return the commit of the checkout in the working folder, and whether files differ from it."""
    try:
        commit, status = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed_files": len(status.splitlines())}


def peak_memory(device: str) -> dict[str, int]:
    """Return the most bytes this process has held so far, in main memory and on a CUDA device."""
    import resource  # POSIX only

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.startswith("cuda"):
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def stream_digest(stream: Stream, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a stream's images and labels, in its order."""
    found, done = hashlib.sha256(), 0
    parts = [((e.train_images, e.train_labels), (e.test_images, e.test_labels)) for e in stream.experiences]
    total = sum(len(images) for pair in parts for images, _ in pair)
    for images, labels in chain.from_iterable(parts):
        found.update(repr(labels).encode())
        for image in images:
            found.update(_image_digest(image, stream.channels))
            done += 1
            if progress is not None:
                progress("reading the images", done, total, {})
    return found.hexdigest()


def _image_digest(image: Any, channels: int) -> bytes:
    if isinstance(image, str | Path):
        found = Path(image).stat()
        return _file_digest(Path(image), found.st_mtime_ns, found.st_size)
    if isinstance(image, Tensor):
        image = image.numpy()
    if not isinstance(image, np.ndarray):
        image = np.asarray(open_image(image, channels=channels))
    return hashlib.sha256(f"{image.dtype}{image.shape}".encode() + image.tobytes()).digest()


@cache
def _file_digest(path: Path, modified: int, size: int) -> bytes:
    """Read a file once for all seeds."""
    return hashlib.sha256(path.read_bytes()).digest()


def model_digest(learner: IncrementalLearner[Any]) -> str:
    """Return the SHA-256 of everything a learner has learned."""
    tensors, values = learner.export()
    return digest(repr(values), tensors)


def code_of(kind: type) -> dict[str, Any]:
    """Return the file, and its SHA-256, of a class that is neither this library's nor Avalanche's.

    >>> code_of(IncrementalLearner)
    {}
    """
    kind = getattr(kind, "strategy_type", kind)
    if kind.__module__.partition(".")[0] in ("continual", "avalanche"):
        return {}
    file = Path(inspect.getfile(kind)).resolve()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"code": {"file": str(file), "class": kind.__qualname__, "sha256": sha256}}


def cell_record(learner: IncrementalLearner[Any], stream: Stream, data: str, device: str) -> dict[str, Any]:
    """Return what decides a cell's results, and under `circumstances` what does not."""
    return {
        **code_of(type(learner)),
        "backbone": learner.backbone.describe(),
        "class_order": list(stream.class_order),
        "data": data,
        "model": model_digest(learner),
        "circumstances": {**surroundings(device), "peak_memory": peak_memory(device)},
    }
