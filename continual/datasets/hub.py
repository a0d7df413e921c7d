"""Image data sets in parquet files, or on the Hugging Face hub, read through `datasets` (extra `hub`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from continual.data.images import EncodedImage
from continual.datasets.collection import Entry
from continual.datasets.config import HUB, DataConfig
from continual.datasets.layouts import told
from continual.errors import InputError, nearest

TEST_NAMES = ("test", "validation", "val", "valid")


def read_parquet(path: Path, config: DataConfig) -> list[Entry]:
    """Read one parquet file (no split), or a folder of them named after their split (train*, test*)."""
    datasets = _datasets()
    import pyarrow.parquet

    tables = {}
    for split, files in (_files_by_split(path) if path.is_dir() else {None: [path]}).items():
        try:
            # Read where they lie: `datasets` itself would copy everything into a cache.
            parts = [datasets.Dataset(pyarrow.parquet.read_table(file, memory_map=True)) for file in files]
            tables[split] = datasets.concatenate_datasets(parts)
        except Exception as error:  # pyarrow has many of its own
            raise InputError(f"{path} is not readable parquet ({_line(error)}): download it again") from error
    return [entry for split, table in tables.items() for entry in _entries(table, split, str(path), config)]


def read_hub(source: str, config: DataConfig, *, download: bool = False) -> list[Entry]:
    """Read a data set of the hub from the local cache; only with `download` is it fetched.

    Raises InputError if it is not there, or has no training split.
    """
    datasets = _datasets()
    try:
        with _offline(not download):
            found = datasets.load_dataset(source.removeprefix(HUB))
    except Exception as error:  # whatever the network, the hub and its files can do
        hint = (
            "check the name and the network" if download else f"fetch it once: equimos data prepare {source} --download"
        )
        raise InputError(f"cannot load {source} ({type(error).__name__}: {_line(error)}): {hint}") from error
    test = next((part for part in TEST_NAMES if part in found), None)
    if "train" not in found:
        raise InputError(f"{source} has the splits {', '.join(found)}: one must be 'train'")
    splits = [("train", "train"), ("test", test)] if test else [(None, "train")]
    return [entry for split, part in splits for entry in _entries(found[part], split, source, config)]


def _files_by_split(folder: Path) -> dict[str | None, list[Path]]:
    files = sorted(folder.rglob("*.parquet"))
    train = [file for file in files if file.name.startswith("train")]
    test = [file for file in files if file.name.startswith(TEST_NAMES)]
    if train and test:
        return {"train": train, "test": test}
    return {None: train or files}


def _entries(table: Any, split: str | None, place: str, config: DataConfig) -> Iterator[Entry]:
    """Yield the rows; images stay encoded until they are asked for."""
    datasets = _datasets()
    features = table.features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)] or [
        name for name in ("image", "img") if name in features
    ]
    image = config.image_column or next(iter(images), "image")
    for key, name in (("image", image), ("label", config.label_column), ("domain", config.domain_column)):
        if name is not None and name not in features:
            raise InputError(f"{place} has no column {name!r}: {nearest(name, features)} (data.{key}_column)")
    if not isinstance(features[image], datasets.Image) and not _holds_bytes(features[image]):
        raise InputError(f"{place}: column {image!r} holds {features[image]}, not images: set data.image_column")
    if isinstance(features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    kind = features[config.label_column]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else None
    labels = table[config.label_column][:]
    domains = table[config.domain_column][:] if config.domain_column else [None] * len(labels)
    rows = table.select_columns([image])
    problems = [f"row {i}: no {config.label_column}" for i, label in enumerate(labels) if label in (None, "", -1)]
    problems += [
        f"row {i}: label {x} is not a name or a number" for i, x in enumerate(labels) if isinstance(x, list | dict)
    ]
    if problems:
        raise told(f"{place} has {len(problems)} problems", problems)
    for i, (label, domain) in enumerate(zip(labels, domains, strict=True)):
        name = f"{split or 'all'}/{i}"
        encoded = EncodedImage(f"{place}, {name}", partial(_read, rows, image, i))
        yield Entry(
            encoded, name, names[label] if names else str(label), split, None if domain is None else str(domain)
        )


def _holds_bytes(feature: Any) -> bool:
    """Tell whether a column is a struct {bytes, path}, as images are stored without a note of it, or plain bytes."""
    return (isinstance(feature, dict) and "bytes" in feature) or "binary" in str(getattr(feature, "dtype", ""))


def _read(rows: Any, column: str, index: int) -> bytes:
    value = rows[index][column]
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else Path(value["path"] or "").read_bytes()
    if not isinstance(value, bytes):
        raise ValueError("no image")
    return value


@contextmanager
def _offline(on: bool) -> Iterator[None]:
    """Keep `datasets` from the network, which it asks even for what it has."""
    import datasets.config
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if on:
            datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("parquet and hub data sets need the extra: pip install 'equimos[hub]'") from None
    return datasets


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
