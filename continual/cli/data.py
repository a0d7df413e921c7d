"""The commands `equimos data ...`: list, check, prepare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from continual.cli.options import Json
from continual.console import check_outputs, check_target, console, show_rows, write_json, write_text
from continual.errors import InputError

if TYPE_CHECKING:
    from continual.datasets.audit import Report
    from continual.datasets.collection import Collection
    from continual.datasets.config import DataConfig

app = typer.Typer(help="List, prepare and check data sets.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH", help="A published data set, an image folder, a CSV manifest, parquet, or hub:OWNER/NAME."
    ),
]
Root = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where a published data set lies.", show_default="$EQUIMOS_DATA/NAME")
]
Domains = Annotated[bool, typer.Option("--domains", help="Class folders lie in folders of domains: DOMAIN/CLASS.")]
Share = Annotated[float, typer.Option(help="Share of each class for testing, where the source has no split.")]
Outside = Annotated[
    bool, typer.Option("--outside", help="Let a manifest or parquet file name images outside its folder, and links.")
]
Channels = Annotated[int, typer.Option(min=1, help="Of the images: other than 1 and 3 are TIFF and .npy files.")]
Seed = Annotated[int, typer.Option(help="Which images those are.")]


@app.command("list")
def list_(json: Json = None) -> None:
    """List the published data sets: counts, protocols, licence, and whether they are here."""
    from continual.datasets.catalogue import catalogue
    from continual.datasets.config import DataConfig
    from continual.datasets.readers.published import root_of

    check_outputs(json)
    roots = {name: root_of(DataConfig(source=name)) for name in catalogue()}
    if not write_json(json, {k: {**about.model_dump(), "root": str(roots[k])} for k, about in catalogue().items()}):
        return
    rows = []
    for name, about in catalogue().items():
        counts = [" or ".join(dict.fromkeys(f"{getattr(x, n):,}" for x in about.layouts)) for n in ("train", "test")]
        place = str(roots[name]) if roots[name].is_dir() else f"{roots[name]} (not there)"
        rows.append((name, about.classes, *counts, ", ".join(about.streams), about.licence, place))
    show_rows(rows, "name", "classes", "training", "test", "streams", "licence", "folder")


@app.command()
def check(
    name: Name, root: Root = None, domains: Domains = False, test_share: Share = 0.2, split_seed: Seed = 1993,
    outside: Outside = False, channels: Channels = 3,
    json: Json = None,
) -> None:  # fmt: skip
    """Open every image and compare the counts with the published ones; nothing is written or fetched."""
    from continual.datasets.config import find

    config = _config(name, root, domains, test_share, split_seed, outside, channels)
    check_outputs(json)
    _show(_audited(find(config), channels), json)


@app.command()
def prepare(
    name: Name, root: Root = None, domains: Domains = False, test_share: Share = 0.2, split_seed: Seed = 1993,
    outside: Outside = False, channels: Channels = 3,
    download: Annotated[bool, typer.Option("--download", help="Fetch it if it is not there; says how much.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The manifest.", show_default="equimos.csv in its folder")
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Check a data set and record its split as a manifest, which from then on decides it."""
    from continual.datasets.catalogue import catalogue
    from continual.datasets.config import find
    from continual.datasets.listed_files import refused
    from continual.datasets.readers.hub import HUB
    from continual.datasets.readers.manifest import manifest_text
    from continual.datasets.readers.record import RECORD

    config = _config(name, root, domains, test_share, split_seed, outside, channels)
    for file in (out, json):
        check_outputs(file)
    if download and config.source in catalogue():
        _download(config)
    elif download and not config.source.startswith(HUB):
        raise InputError(f"--download goes with a published data set or hub:OWNER/NAME, not {config.source}")
    found = find(config, download=download)
    files = all(isinstance(image, Path) for image in found.train.images)
    target = out or (found.folder and found.folder / RECORD)
    if files and target is None:
        raise InputError(f"{found.origin} is no folder in which the split could be recorded: give --out FILE")
    if out is not None and not files:
        raise InputError(f"{found.origin} holds no files of images to list: leave --out away; its split is fixed")
    if files and target is not None:
        check_target(target)
    report = _audited(found, channels)
    _show(report, json)
    if files and target is not None:
        write_text(target, manifest_text(found, target.parent.absolute()))
        console(stderr=True).print(f"split recorded in {target}: SHA-256 {report.list_sha256}")
        if any(refused(path, target.parent) for path in [*found.train.images, *found.test.images]):
            console(stderr=True).print(f"note: some images lie outside {target.parent}: read it with --outside")


def _config(
    name: str, root: Path | None, domains: bool, test_share: float, split_seed: int, outside: bool, channels: int
) -> DataConfig:
    """Return the `[data]` table that the words of a command line stand for."""
    from pydantic import ValidationError

    from continual.datasets.catalogue import catalogue
    from continual.datasets.config import DataConfig
    from continual.datasets.readers.hub import HUB
    from continual.documents import is_path

    if name not in {*catalogue(), "digits"} and not name.startswith(HUB) and (is_path(name) or Path(name).exists()):
        name = f"{Path(name).absolute()}"
    try:
        drawn = {"test_share": test_share, "split_seed": split_seed, "channels": channels}
        return DataConfig(source=name, root=root, domains=domains, outside=outside, **drawn)
    except ValidationError as error:
        raise InputError("; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())) from None


def _audited(found: Collection, channels: int) -> Report:
    from continual.cli.progress import ProgressBars
    from continual.datasets.audit import audit

    with ProgressBars(console(stderr=True)) as bars:
        return audit(found, bars, channels)


def _show(report: Report, json_file: Path | None) -> None:
    """Say what was found; raises InputError if the data set is unfit."""
    if write_json(json_file, asdict(report)) and not report.errors:
        rows = [
            ("found", report.origin),
            ("split", report.split),
            ("classes", report.classes),
            ("training", f"{report.train} images, {report.fewest} to {report.most} per class"),
            ("test", f"{report.test} images"),
            *([("domains", ", ".join(report.domains))] if report.domains else []),
            ("SHA-256", f"{report.list_sha256} (list of images, labels and split)"),
            ("", f"{report.content_sha256} (with the images' bytes)"),
            *(("remark", remark) for remark in report.remarks),
        ]
        show_rows(rows, "", report.name)
    if report.errors:
        for remark in report.remarks:  # what was left out may be why
            console(stderr=True).print(f"remark: {remark}")
        raise InputError(f"{report.name} is not fit for use: " + "\n".join(report.errors[:11]))


def _download(config: DataConfig) -> None:
    """Fetch and unpack a published archive, if the data set is not there."""
    from continual.datasets.catalogue import published
    from continual.datasets.config import find
    from continual.datasets.readers.published import root_of

    about, root = published(config.source), root_of(config)
    try:
        find(config)
        return
    except InputError as error:
        if not str(error).startswith(f"{config.source} is not in"):
            raise
    if about.archive is None:
        raise InputError(f"{config.source} cannot be fetched: get it from {about.get}, and name its folder with --root")
    from torchvision.datasets.utils import download_and_extract_archive

    console(stderr=True).print(f"fetching {about.archive.megabytes} MB from {about.archive.url} into {root}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(about.archive.url, str(root), md5=about.archive.md5)
    except Exception as error:  # torchvision passes on whatever the network and the archive raise
        reason = str(error).partition("\n")[0]
        url = about.archive.url
        raise InputError(f"cannot fetch {url} ({type(error).__name__}: {reason}): see {about.get}") from error
