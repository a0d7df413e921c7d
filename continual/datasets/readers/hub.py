"""Image data sets on the Hugging Face hub, read through `datasets` (extra `hub`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from continual.data.folders import part_of
from continual.datasets.collection import Collection
from continual.datasets.readers.base import DataTable, Reader, collected
from continual.datasets.readers.parquet import first_line, library, rows_of
from continual.errors import InputError

HUB = "hub:"


class Hub(Reader):
    """`source = "hub:OWNER/NAME"`, from the local cache unless it may be fetched."""

    name = "hub"
    keys = frozenset({"domains"})  # allowed, and not needed: a column names them

    def sources(self) -> tuple[str, ...]:
        return ()

    def takes(self, source: str) -> bool:
        return source.startswith(HUB)

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        source, datasets = config.source, library()
        import huggingface_hub.constants

        try:
            with _offline(not download):
                found = datasets.load_dataset(source.removeprefix(HUB))
        except Exception as error:  # whatever the network, the hub and its files can do
            fetch = f"fetch it once: equimos data prepare {source} --download"
            hint = "check the name and the network" if download else fetch
            raise InputError(f"cannot load {source} ({type(error).__name__}: {first_line(error)}): {hint}") from error
        parts = {part: name for name in found if (part := part_of(name)) is not None}
        if "train" not in parts:
            raise InputError(f"{source} has the splits {', '.join(found)}: one must be 'train'")
        splits = parts if len(parts) > 1 else {None: parts["train"]}
        # Images that are no part of a table lie where `datasets` has put them.
        places = [Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE)]
        tables = ((split, found[name]) for split, name in splits.items())
        entries = [e for split, rows in tables for e in rows_of(rows, split, source, config, places)]
        left = [name for name in found if part_of(name) is None]
        remarks = [f"splits of no known part are left out: {', '.join(left)}"] if left else []
        return collected(config, entries, source, "the hub's", remarks)


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
