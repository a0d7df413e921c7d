"""Memory and time of a score map of a large picture, equivariant to D4, in windows.

    OMP_NUM_THREADS=1 python benchmarks/large_pictures.py --sides 2000,4000,8000,12000 --out large_pictures.json

A picture of random bytes stays in a file, windows are read from there, and a small U-Net with random weights answers
all eight views of each. "Above the start" is the peak of the process beyond what it held before: the map itself (four
bytes a pixel) and the pages of the file that the system keeps mapped. Every size has a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from arguments import Figures
from measuring import surroundings, table
from torch import Tensor, nn

import equivariant as eq


class UNet(nn.Module):
    """One score for each pixel, down by a stride and up again."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = nn.Conv2d(2 * width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, 1, H, W)."""
        skip = self.enter(x).relu()
        return self.leave(torch.cat([skip, self.up(self.down(skip).relu())], dim=1))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.inference_mode()
def one(side: int, tile: int) -> dict[str, Any]:
    """Measure one size, in this process."""
    torch.manual_seed(0)
    wrapped = eq.Equitune(UNet().eval(), "D4", output=eq.Maps(), chunk=1)
    model = eq.Tiled(wrapped, tile, overlap=tile // 8, output=eq.Maps(), prepare=lambda window: window.float() / 255)
    model(torch.zeros(1, 3, tile, tile, dtype=torch.uint8))  # what libraries hold from their first call on
    with tempfile.NamedTemporaryFile() as file:
        draw = np.random.default_rng(0)
        for _ in range(3 * side):
            file.write(draw.integers(0, 256, side, dtype=np.uint8).tobytes())
        file.flush()
        picture = torch.from_numpy(np.memmap(file.name, np.uint8, "r+", shape=(3, side, side)))
        before, began = peak(), time.perf_counter()
        model(picture[None])
        took, above = time.perf_counter() - began, peak() - before
        # One corner of the transformed picture is as much of the law as fits beside the whole.
        part = picture[:, : 2 * tile, : 2 * tile].clone()[None]
        error = (model(part.rot90(1, (-2, -1))) - model(part).rot90(1, (-2, -1))).abs().max()
    return {"side": side, "seconds": took, "above": above, "peak": peak(), "error": float(error)}


def main(
    out: Figures,
    sides: Annotated[str, typer.Option(help="Pixels, with commas.")] = "2000,4000,8000,12000",
    tile: int = 512,
    only: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure every size and print a table."""
    torch.set_num_threads(1)
    if only is not None:
        print(json.dumps(one(only, tile)))
        return
    records = []
    for side in sides.split(","):
        command = [sys.executable, str(Path(__file__)), "--only", side, "--tile", str(tile), "--out", str(out)]
        records.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        out.write_text(json.dumps({"ran on": surroundings(), "tile": tile, "records": records}, indent=1) + "\n")
    rows = []
    for r in records:
        memory = [f"{r[key] / 2**20:.0f}" for key in ("above", "peak")]
        rows.append([f"{r['side']:,}", f"{r['seconds']:.0f}", *memory, f"{r['error']:.0e}"])
    print(table(["side [px]", "time [s]", "above the start [MiB]", "peak of all [MiB]", "largest error"], rows))


if __name__ == "__main__":
    typer.run(main)
