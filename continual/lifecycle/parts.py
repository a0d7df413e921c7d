"""Answers about any number of images as a parquet data set of parts, each written whole or not at all.

    FOLDER/_answers.json          of which model, images and settings these answers are
    FOLDER/part-000012.parquet    those about images 12 SIZE up to 13 SIZE

Any number of processes may work on one folder: each takes parts that are not there and that no other is at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual import files
from continual.errors import InputError
from continual.lifecycle import locks

ABOUT = "_answers.json"  #: readers of data sets pass over names that begin so

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Parts:
    """The folder of a data set of so many parts."""

    folder: Path
    count: int

    def claim(self, about: Mapping[str, Any]) -> None:
        """Make the folder, or go on with what is there; raises InputError if that is about something else."""
        file = self.folder / ABOUT
        if file.is_file():
            try:
                found = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged, and nothing else says what the answers are of: delete {self.folder}, or name "
                    "another folder"
                ) from error
            if changed := [key for key, value in about.items() if found.get(key) != value]:
                raise InputError(
                    f"{self.folder} holds answers of other {', '.join(changed)}: name another folder, or delete it"
                )
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(p.name[0] != "." for p in self.folder.iterdir())):
            raise InputError(f"{self.folder} is not empty and holds no answers: name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(file, about)

    def file(self, number: int) -> Path:
        """Return where a part is, or will be."""
        return self.folder / f"part-{number:06}.parquet"

    def missing(self) -> list[int]:
        """Return the parts that are not there."""
        there = {path.name for path in self.folder.glob("part-*.parquet")}
        return [number for number in range(self.count) if self.file(number).name not in there]

    def make(self, number: int, answer: Callable[[], Records], schema: Any) -> bool:
        """Write a part, of a pyarrow `schema`, unless it is there or another process is at it; tell if it is there."""
        file = self.file(number)
        with locks.held(self.folder / f".{file.name}.lock") as mine:
            if not mine or file.exists():
                return file.exists()
            write(file, answer(), schema)
            return True


def write(file: Path, records: Sequence[Mapping[str, Any]], schema: Any) -> None:
    """Write records as parquet; raises InputError if it cannot be written."""
    import pyarrow
    from pyarrow import parquet

    with files.written(file, InputError) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist([*records], schema), temporary)


def schema_of(types: Mapping[str, type]) -> Any:
    """Return pyarrow's schema of columns; raises InputError without pyarrow."""
    try:
        import pyarrow
    except ImportError:
        raise InputError('parquet needs pyarrow: pip install "equimos[pandas]"') from None
    known = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return pyarrow.schema([(name, known[kind]) for name, kind in types.items()])
