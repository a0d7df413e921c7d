"""200 clients at once, for a minute, against `equimos serve` on loopback: errors, latency, throughput, memory.

    python benchmarks/serve_load.py [--model FILE --image FILE] [--clients 200] [--seconds 60] [--out FILE]
        [--set precision=bfloat16]

Every client sends one image, waits for the answer, and sends the next. Without --model, a MOS model of five classes in
two experiences on a random ViT of 2 blocks and width 32 at 16 px is made and served: what is measured then is the
server, not a ViT. Clients run in this process, on the same cores as the server.
"""

from __future__ import annotations

import asyncio
import io
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from continual.methods.mos.learner import MOSLearner
from continual.testing import coloured_squares, tiny_backbone

COMMAND = [sys.executable, "-m", "continual", "serve", "--port", "0", "--device", "cpu"]


def tiny_model(path: Path) -> None:
    """Save a model that answers in about a millisecond."""
    learner = MOSLearner(tiny_backbone(), epochs=1, bottleneck=4, alignment_epochs=1)
    for classes in ([0, 1], [2, 3, 4]):
        learner.learn(*coloured_squares(classes, 4))
    learner.save(path, embed_backbone=True)


def request(image: bytes) -> bytes:
    """A whole HTTP request with one image."""
    part = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="photo.png"\r\n\r\n' + image
    body = part + b"\r\n--edge--\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n" + body


async def client(port: int, message: bytes, until: float, seen: list[tuple[Any, float]]) -> None:
    """Ask again and again on one connection; note status, or the error, and seconds."""
    reader = writer = None
    while time.perf_counter() < until:
        started = time.perf_counter()
        try:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(length[1]) if length else 0)
            status: Any = int(head.split()[1]) if json.loads(body) else "empty"
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            status, writer = type(error).__name__, None
        seen.append((status, time.perf_counter() - started))
    if writer is not None:
        writer.close()


async def load(port: int, message: bytes, clients: int, seconds: float) -> list[tuple[Any, float]]:
    """Let all clients ask for so many seconds."""
    seen: list[tuple[Any, float]] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, message, until, seen) for _ in range(clients)))
    return seen


def peak_memory(process: int) -> float | None:
    """Return the most memory a process has had, in MiB, where the system says it."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else None


def main(
    model: Annotated[Path | None, typer.Option(help="A model file of `equimos learn`.")] = None,
    image: Annotated[Path | None, typer.Option(help="The image to send.")] = None,
    clients: int = 200,
    seconds: float = 60,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting to serve with.")] = None,
) -> None:
    """Serve, load, and print."""
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            model = Path(folder) / "model.safetensors"
            tiny_model(model)
        data = io.BytesIO()
        Image.fromarray(coloured_squares([0], 1)[0][0].permute(1, 2, 0).numpy()).save(data, "PNG")
        content = image.read_bytes() if image else data.getvalue()
        words = [*COMMAND, "--model", str(model), *[f"--set={setting}" for setting in set_ or ()]]
        server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            found = re.search(r":(\d+) \(", said)
            assert found is not None, said
            asyncio.run(load(int(found[1]), request(content), 8, 1))  # warm up
            seen = asyncio.run(load(int(found[1]), request(content), clients, seconds))
            memory = peak_memory(server.pid)
        finally:
            server.terminate()
            server.wait(60)
    times = np.array([time_ for _, time_ in seen]) * 1000
    figures = {
        "settings": set_ or [],
        "clients": clients,
        "seconds": seconds,
        "requests": len(seen),
        "statuses": {str(status): n for status, n in Counter(status for status, _ in seen).items()},
        "errors": sum(status != 200 for status, _ in seen),
        "requests a second": len(seen) / seconds,
        **{f"p{p} [ms]": float(np.percentile(times, p)) for p in (50, 95, 99)},
        "longest [ms]": float(times.max()),
        "server's peak memory [MiB]": memory,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
