"""Options that several commands have, as typer reads them: nothing is loaded for them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from continual.errors import InputError, nearest


def config_names(incomplete: str) -> list[str]:
    """Complete the names of the configs that come with the package."""
    from continual.experiments.shipped import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


CONFIG = "A TOML file, or the name of a config that comes with equimos: `equimos show` lists them."
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help=CONFIG, autocompletion=config_names)]
Model = Annotated[Path, typer.Option("--model", "-m", metavar="FILE", help="The model file.")]
Images = Annotated[Path, typer.Option("--images", "-i", metavar="DIR", help="A folder with one folder per class.")]
ImagesOrList = Annotated[
    Path,
    typer.Option("--images", "-i", metavar="DIR|CSV", help="A folder with one folder per class, or a list of images."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto: the fastest that is here.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that load images; 0 loads them in this one.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write JSON here; - for standard output.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write CSV here; - for standard output.")]
ModelArg = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="An argument of the model or its preprocessing: img_size=98; 2.img_size=128 is of the second backbone.",
    ),
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        metavar="LOW..HIGH",
        help="What black and white are in files of many channels (TIFF, .npy) that are not uint8: 0..10000, unit, "
        "bytes or normalised.",
    ),
]
KeepHeldOut = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Keep features of N held-out images per class, to see what breaks once these are gone; 0 drops them.",
    ),
]
KeepThumbnails = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Keep small pictures of N learned images per class in the model, for `equimos explain`; 0 drops them.",
    ),
]
Columns = Annotated[bool, typer.Option("--all", help="Show every measure, also on a narrow terminal.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Work with this setting now: eval_batch_size=16.")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that share the work.")]
Launcher = Annotated[str, typer.Option(help="Where the work is done: local, slurm or ray.")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="submitit's parameter: timeout_min=60, slurm_partition=gpu."),
]
Ray = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Ray's option of a task: num_gpus=1, num_cpus=4; or address=HOST:PORT."),
]
Symmetry = Annotated[
    str | None,
    typer.Option(
        metavar="GROUP",
        help="Answer alike however an image is rotated (C4), mirrored (mirror_h) or both (D4); auto: D4 if the first "
        "images have no up.",
    ),
]
Passes = Annotated[
    float | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With a symmetry, by strata and ridge: look at as many views of an image as it needs, N in the mean.",
    ),
]
Method = Annotated[
    str | None, typer.Option(metavar="FILE.py:NAME", help="The learner's code, for a model of a method of your own.")
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Where the backbone's weights are now; of several, one each in their order."),
]

LAUNCHERS = ("local", "slurm", "ray")

#: the option's name, and the one it had
FALSE_ALARMS = ("--false-alarm-rate", "--unknown-rate")


def with_views(pairs: Iterable[str] | None, passes: float | None, group: str | None = None) -> list[str]:
    """Return the settings of --set, and those of --passes and --symmetry: of both together, all views may be asked."""
    found = [*(pairs or ()), *([f"group={group}"] if group else []), *([f"passes={passes}"] if passes else [])]
    every = bool(group and passes) and not any(pair.startswith("symmetry=") for pair in found)
    return [*found, "symmetry=equitune"] if every else found


def check_shares(**values: float | None) -> None:
    """Raise InputError for a share that is no number: a range does not refuse NaN."""
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise InputError(f"--{name.replace('_', '-')} is a share, a number from 0 to 1, got {value}")


def check_false_alarms(rate: float | None) -> None:
    """Raise InputError unless a rate of false alarms, where one is asked for, can be one."""
    if rate is not None and not 0 < rate < 1:
        raise InputError(f"--false-alarm-rate is a share of images above 0 and below 1, got {rate}")


def check_there(places: Iterable[Path]) -> None:
    """Raise InputError for the first file or folder that is not there, before others are read."""
    if gone := next((place for place in places if not place.exists()), None):
        raise InputError(f"no image at {gone}, and no folder")


def check_launcher(launcher: str, jobs: int) -> None:
    """Raise InputError for a launcher that there is not, and for --jobs where Ray decides how many there are."""
    if launcher not in LAUNCHERS:
        raise InputError(f"unknown launcher {launcher!r}: {nearest(launcher, LAUNCHERS)}")
    if launcher == "ray" and jobs > 1:
        raise InputError("Ray runs as many tasks at once as it has room for: leave out --jobs; --ray num_cpus=4 says "
                         "what a task takes")  # fmt: skip
