"""From a config's `[data]` table to a collection of images, through the reader that takes its source."""

from __future__ import annotations

import warnings

from continual.datasets.collection import Collection, Images
from continual.datasets.config import DataConfig
from continual.datasets.readers import readers_for
from continual.datasets.readers.base import Reader
from continual.errors import InputError


def find(config: DataConfig, *, download: bool = False) -> Collection:
    """Return the images that a config names, with their split; no image is opened.

    Only with `download` may a data set of the hub be fetched. Raises InputError for data that are not there or unfit.
    """
    return _read(config, download)[1]


def load_collection(config: DataConfig) -> Collection:
    """Return the data set of a config, checked.

    A published data set must have the published counts (unless `exact` is off). A user's own images are all opened
    once, before any work is done. Warns of images that a recorded split leaves out.
    """
    reader, found = _read(config, download=False)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    reader.check(found, config)
    return found


def load_data(config: DataConfig) -> tuple[Images, Images]:
    """Return (training set, test set); raises InputError if the data are not there or not readable."""
    found = load_collection(config)
    return found.train, found.test


def _read(config: DataConfig, download: bool) -> tuple[Reader, Collection]:
    for reader in readers_for(config.source):
        if config.problem_of(reader) is None and (found := reader.read(config, download=download)) is not None:
            return reader, found
    raise InputError(f"no data at {config.source}")
