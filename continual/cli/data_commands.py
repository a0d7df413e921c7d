"""The commands on data sets: list, check, prepare."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from continual.cli.progress import ProgressBars
from continual.console import STDOUT, add_row, check_target, console, new_table, show, write_text
from continual.datasets.audit import Report, audit
from continual.datasets.catalogue import catalogue, published
from continual.datasets.collection import Collection
from continual.datasets.config import HUB, DataConfig
from continual.datasets.find import RECORD, find, root_of
from continual.datasets.manifest import manifest_text
from continual.datasets.sources import digits
from continual.documents import is_path
from continual.errors import InputError


def config_of(name: str, root: Path | None, domains: bool, test_share: float, split_seed: int) -> DataConfig:
    """Return the `[data]` table that the words of a command line stand for."""
    if name not in {*catalogue(), "digits"} and not name.startswith(HUB) and (is_path(name) or Path(name).exists()):
        name = f"{Path(name).absolute()}"
    try:
        return DataConfig(source=name, root=root, domains=domains, test_share=test_share, split_seed=split_seed)
    except ValidationError as error:
        raise InputError("; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())) from None


def list_data(json_file: Path | None = None) -> None:
    """Show the table of published data sets."""
    if json_file is not None:
        check_target(json_file)
        rows = {name: {**about.model_dump(), "root": str(_root(name))} for name, about in catalogue().items()}
        write_text(json_file, json.dumps(rows, indent=1) + "\n")
    if json_file == STDOUT:
        return
    table = new_table("name", "classes", "training", "test", "streams", "licence", "folder")
    for name, about in catalogue().items():
        folder = _root(name)
        counts = [
            " or ".join(dict.fromkeys(f"{getattr(x, part):,}" for x in about.layouts)) for part in ("train", "test")
        ]
        place = str(folder) if folder.is_dir() else f"{folder} (not there)"
        add_row(table, name, about.classes, *counts, ", ".join(about.streams), about.licence, place)
    show(table)


def _root(name: str) -> Path:
    return root_of(DataConfig(source=name))


def check(config: DataConfig, json_file: Path | None = None) -> None:
    """Look at every image and say what was found; raises InputError if the data set is unfit."""
    if json_file is not None:
        check_target(json_file)
    _tell(_audited(digits() if config.source == "digits" else find(config)), json_file)


def prepare(
    config: DataConfig, *, download: bool = False, out: Path | None = None, json_file: Path | None = None
) -> None:
    """Fetch a data set if asked to, check it, and write its split as a manifest.

    Raises InputError, and writes nothing, for a data set that is not there or unfit.
    """
    for file in (out, json_file):
        if file is not None:
            check_target(file)
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
    report = _audited(found)
    _tell(report, json_file)
    if files and target is not None:
        write_text(target, manifest_text(found, target.parent.absolute()))
        console(stderr=True).print(f"split recorded in {target}: SHA-256 {report.list_sha256}")


def _audited(found: Collection) -> Report:
    with ProgressBars(console(stderr=True)) as bars:
        return audit(found, bars)


def _tell(report: Report, json_file: Path | None) -> None:
    if json_file is not None:
        write_text(json_file, json.dumps(asdict(report), indent=1) + "\n")
    if json_file != STDOUT and not report.errors:
        table = new_table("", report.name)
        add_row(table, "found", report.origin)
        add_row(table, "split", report.split)
        add_row(table, "classes", report.classes)
        add_row(table, "training", f"{report.train} images, {report.fewest} to {report.most} a class")
        add_row(table, "test", f"{report.test} images")
        if report.domains:
            add_row(table, "domains", ", ".join(report.domains))
        add_row(table, "SHA-256", f"{report.list_sha256} (list of images, labels and split)")
        add_row(table, "", f"{report.content_sha256} (with the images' bytes)")
        for remark in report.remarks:
            add_row(table, "remark", remark)
        show(table)
    if report.errors:
        raise InputError(f"{report.name} is not fit for use: " + "\n".join(report.errors[:11]))


def _download(config: DataConfig) -> None:
    """Fetch and unpack a published archive, if the data set is not there."""
    about, root = published(config.source), root_of(config)
    try:
        find(config)
    except InputError as error:
        if not str(error).startswith(f"{config.source} is not in"):
            raise
    else:
        return
    if about.archive is None:
        raise InputError(f"{config.source} cannot be fetched: get it from {about.get}, and name its folder with --root")
    from torchvision.datasets.utils import download_and_extract_archive

    console(stderr=True).print(f"fetching {about.archive.megabytes} MB from {about.archive.url} into {root}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(about.archive.url, str(root), md5=about.archive.md5)
    except Exception as error:  # torchvision passes on whatever the network and the archive raise
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"cannot fetch {about.archive.url} ({type(error).__name__}: {reason}): see {about.get}"
        ) from error
