"""Run every part of the GPU's measurements, each in a process of its own with a time limit, and gather the results.

    benchmarks/gpu.sh [--images DIR --weights FILE] [--out DIR]

Called by gpu.sh, which sets the paths. A part that fails or runs out of time is recorded as such, and the next one
starts. Without images, the parts that need real ones use scikit-learn's digits.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import surroundings

HERE = Path(__file__).parent

#: What stands in for images and weights of one's own: scikit-learn's digits on a small ViT.
DIGITS = """
[data]
source = "digits"
[backbone]
name = "vit_tiny_patch16_224"
args = { img_size = 16, patch_size = 4, embed_dim = 64, depth = 4, num_heads = 4 }
preprocessing = { crop_scale = [0.7, 1.0], mirror = false, crop_pct = 1.0 }
[backbone.pretrain]
epochs = 1
"""
OWN = """
[data]
train = "IMAGES/train"
test = "IMAGES/test"
source = "folder"
[backbone]
weights = "WEIGHTS"
args = { img_size = 98 }
preprocessing = { crop_scale = [0.4, 1.0] }
"""
METHODS = """
title = "Real images from start to report"
DATA
[stream]
classes = 5
[settings]
precision = "bfloat16"
epochs = EPOCHS
batch_size = 16
[methods.simple_cil]
[methods.ridge]
[methods.strata]
[methods.mos]
"""


@dataclass(frozen=True)
class Part:
    """One measurement: a command, its time limit in seconds, and where it writes JSON and Markdown."""

    name: str
    limit: int
    command: list[str]


def parts(device: str, images: Path | None, weights: Path | None, folder: Path, *, smoke: bool) -> list[Part]:
    """Return the parts, most important first; with `smoke` the same ones, as small as they go."""
    python, at = sys.executable, ["--device", device]
    tiny = ["--model", "vit_tiny_patch16_224", "--size", "32"]
    training = ["--precision", "bfloat16", "--size", "224", "--batch", "256"]
    # By name: collecting all tests takes a minute, and needs every extra.
    tests = ["tests/continual/test_gpu.py", "tests/equivariant/wrappers/test_wrapper_laws.py"]
    wrappers, inference, extraction = ["--batch", "64"], [], ["--workers", "8", "--count", "1024", "--rounds", "2"]
    tests = tests[:1] if smoke else [*tests, "-n", "8"]
    if smoke:
        wrappers, inference = ["--size", "28", "--batch", "1", "--rounds", "2"], [*tiny, "--smoke"]
        training = [*tiny, "--batch", "2", "--rounds", "1", "--no-compiled"]
        extraction = [*tiny, "--count", "32", "--batch", "8"]

    def script(name: str, limit: int, *options: str) -> Part:
        command = [python, str(HERE / f"{name}.py"), *at, *options, "--out", str(folder / name)]
        return Part(name, 10 * limit if smoke else limit, command)

    config = folder / "run.toml"
    own = OWN.replace("IMAGES", str(images and images.resolve()))
    own = own.replace("WEIGHTS", str(weights and weights.resolve()))
    text = METHODS.replace("DATA", own if images and weights else DIGITS).replace("EPOCHS", "1" if smoke else "4")
    config.write_text(text, encoding="utf-8")
    run = ["-m", "continual", "run", str(config), "--out", str(folder / "run"), f"device={device}"]
    # pytest-benchmark, where it is installed, warns of the eight processes, and a warning is an error here.
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-m", "gpu"]
    return [
        Part("tests", 1200 if smoke else 120, [python, *pytest, *tests]),
        script("mos_inference_random", 100, *inference),
        script("mos_training", 140, *training, "--no-alignment"),
        script("orbit", 60, *wrappers),
        Part("run", 1200 if smoke else 120, [python, *run]),
        script("extraction", 100, *extraction),
        script("device_bits", 60),
    ]


def carried_out(part: Part, folder: Path, surroundings_: dict[str, str]) -> dict[str, Any]:
    """Run a part; return how it ended, its seconds, the JSON it wrote, and the end of what it printed."""
    started = time.monotonic()
    process = subprocess.Popen(
        part.command, env=surroundings_, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said, _ = process.communicate(timeout=part.limit)
        ended = "done" if process.returncode == 0 else f"failed ({process.returncode})"
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        ended = f"stopped after {part.limit} s"
    written = sorted((folder / part.name).glob("*.json"))
    return {
        "ended": ended,
        "seconds": round(time.monotonic() - started, 1),
        "command": " ".join(["python", *part.command[1:]]),
        "results": {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in written},
        "said": said.splitlines()[-25:],
    }


def markdown(record: dict[str, Any], folder: Path) -> str:
    """Return the record as a page: how every part ended, and the tables that it wrote."""
    about = ", ".join(f"{key} {value}" for key, value in record["ran on"].items())
    lines = [f"# {record['device']}", "", about, "", "| part | ended | seconds |", "| --- | --- | ---: |"]
    lines += [f"| {name} | {part['ended']} | {part['seconds']} |" for name, part in record["parts"].items()]
    for name, part in record["parts"].items():
        tables = [file.read_text(encoding="utf-8") for file in sorted((folder / name).glob("*.md"))]
        said = [] if tables and part["ended"] == "done" else ["```", *part["said"], "```"]
        lines += ["", f"## {name}", "", f"`{part['command']}`", "", *tables, *said]
    return "\n".join(lines) + "\n"


def main(
    images: Annotated[Path | None, typer.Option(help="A folder with train/CLASS and test/CLASS.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A ViT's weights, for these images.")] = None,
    out: Annotated[Path, typer.Option(help="Where results go.")] = HERE / "results" / "gpu",
    only: Annotated[list[str] | None, typer.Option(help="Measure these parts alone, and write no others.")] = None,
    smoke: Annotated[bool, typer.Option(help="On a CPU, as small as it goes: does every part run?")] = False,
) -> None:
    """Measure, and write DEVICE.json and DEVICE.md after every part."""
    if not smoke and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here: --smoke runs the same parts on a CPU")
    device = "cpu" if smoke else "cuda"
    name = "smoke" if smoke else torch.cuda.get_device_name()
    record: dict[str, Any] = {"device": name, "ran on": surroundings(), "parts": {}}
    out.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in parts(device, images, weights, folder, smoke=smoke):
            if only and part.name not in only:
                continue
            print(f"== {part.name}, at most {part.limit} s", flush=True)
            record["parts"][part.name] = carried_out(part, folder, {**os.environ, "EQUIMOS_GPU": device})
            print(record["parts"][part.name]["ended"], flush=True)
            text = json.dumps(record, indent=1, ensure_ascii=False)
            (out / f"{stem}.json").write_text(text.replace(f"{folder}/", "") + "\n", encoding="utf-8")
            page = markdown(record, folder).replace(f"{folder}/", "").replace(f"{HERE.parent}/", "")
            (out / f"{stem}.md").write_text(page, encoding="utf-8")
    if failed := [name for name, part in record["parts"].items() if part["ended"] != "done"]:
        print(f"not done: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
