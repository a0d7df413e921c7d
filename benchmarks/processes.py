"""What learning one folder costs in one process and in several under torchrun, and whether the models are the same.

    OMP_NUM_THREADS=1 python benchmarks/processes.py --images DIR --weights FILE --out processes.json

`DIR` holds train/CLASS: `--count` images of its first classes are learned by `equimos learn`. Seconds are of the
processor, without imports, which every process has of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
import typer
from arguments import Figures, Images, Size, Weights
from measuring import surroundings, table

WORKER = "EQUIMOS_PROCESSES"  #: in a process that learns: the folder where it writes its seconds


def work() -> None:
    """Be one process of `equimos learn`, and write what it took."""
    import timm  # noqa: F401

    import continual.cli.opening
    import continual.lifecycle.new_images
    import continual.methods  # noqa: F401
    from continual.cli.app import main as equimos

    started = time.process_time()
    try:
        equimos()
    finally:
        taken = Path(os.environ[WORKER]) / os.environ.get("RANK", "0")
        taken.write_text(str(time.process_time() - started))


def learned(words: list[str], processes: int, place: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the seconds of each process, and the tensors of the model they write."""
    place.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    model = place / "model.safetensors"
    asked = [sys.executable, *(torchrun if processes > 1 else ()), __file__, "learn", "--yes", *words]
    environment = os.environ | {WORKER: str(place)}
    subprocess.run([*asked, "--model", str(model)], env=environment, check=True, stdout=subprocess.DEVNULL)
    return [float((place / str(rank)).read_text()) for rank in range(processes)], safetensors.torch.load_file(model)


def main(
    images: Images, weights: Weights, out: Figures, count: int = 800, size: Size = 98, method: str = "ridge",
    processes: Annotated[list[int], typer.Option(help="How many at once.")] = [1, 2],  # noqa: B006
) -> None:  # fmt: skip
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        paths = [path for own in sorted((images / "train").iterdir()) for path in sorted(own.iterdir())][:count]
        for path in paths:
            (photos / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, photos / path.parent.name)
        given = [
            "--method",
            method,
            "--images",
            str(photos),
            "--weights",
            str(weights),
            "--model-arg",
            f"img_size={size}",
        ]
        for number in processes:
            seconds, tensors = learned(given, number, Path(folder) / str(number))
            first = first or tensors
            same = tensors.keys() == first.keys() and all(torch.equal(tensors[name], first[name]) for name in first)
            rows.append({"processes": number, "images": len(paths), "seconds": seconds, "same": same})
            print(rows[-1], flush=True)
    out.write_text(json.dumps({"ran on": surroundings(), "method": method, "rows": rows}, indent=1) + "\n")
    alone = max(rows[0]["seconds"])
    lines = [
        (str(row["processes"]), " and ".join(f"{s:.1f}" for s in row["seconds"]), f"{max(row['seconds']) / alone:.2f}",
         "yes" if row["same"] else "no")
        for row in rows
    ]  # fmt: skip
    print(table(["processes", "processor seconds of each", "ratio of the longest", "same tensors"], lines))


if __name__ == "__main__":
    work() if WORKER in os.environ else typer.run(main)
