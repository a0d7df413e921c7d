"""Where commands write: the terminal, and files that are written whole or not at all. Rich is loaded at first use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual import files
from continual.errors import InputError
from continual.escaping import terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: given for a file, it means standard output
STDOUT = Path("-")

_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silent(quiet: bool) -> Iterator[None]:
    """Show and write nothing in the block, if so: of several processes at a command, one speaks and writes for all."""
    token = _silent.set(quiet)
    try:
        yield
    finally:
        _silent.reset(token)


def console(*, stderr: bool = False) -> Console:
    """Return a console for results, or for progress and remarks (`stderr`).

    Text from users (file names, class names) is never read as markup, nor obeyed by the terminal: a text that is
    printed is one line. What goes to a file or a pipe is not wrapped at 80 columns.
    """
    from rich.console import Console

    class Safe(Console):
        """A console on which text is one line, and never obeyed."""

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*[terminal(o) if isinstance(o, str) else o for o in objects], **options)

    # Where FORCE_COLOR is set, as Jupyter does, rich takes a pipe for a terminal: it would move a cursor there.
    stream = sys.stderr if stderr else sys.stdout  # None where there is none, as in a daemon
    forced = None if stream is not None and not stream.closed and stream.isatty() else False
    made = Safe(stderr=stderr, quiet=_silent.get(), force_terminal=forced, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = 10_000
    return made


def show(table: Table, *, stderr: bool = False) -> None:
    """Print a table, on standard output or error, without trailing blanks where that is not a terminal."""
    out = console(stderr=stderr)
    if out.is_terminal or out.quiet:
        out.print(table)
        return
    with out.capture() as capture:
        out.print(table)
    out.file.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def new_table(*headings: str) -> Table:
    """Return a table without rules; long cells are folded, never cut."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of plain text; None is shown as a dash."""
    from rich.text import Text

    table.add_row(*[Text("–" if cell is None else terminal(str(cell)), overflow="fold") for cell in cells])


def show_rows(rows: Iterable[Iterable[object]], *headings: str, title: str | None = None, stderr: bool = False) -> None:
    """Print rows of plain text under headings, see `show`; nothing if there are none."""
    table = new_table(*headings)
    table.title, table.title_justify = title and terminal(title), "left"
    for row in rows:
        add_row(table, *row)
    if table.row_count:
        show(table, stderr=stderr)


def count(n: int, noun: str) -> str:
    """Write a number of things.

    >>> count(1, "class"), count(2, "class"), count(3, "image")
    ('1 class', '2 classes', '3 images')
    """
    if n == 1:
        return f"1 {noun}"
    return f"{n} {noun}es" if noun.endswith("s") else f"{n} {noun}s"


def named(name: str) -> str:
    """Write a name in a sentence or a list: in quotation marks where a mark in it would seem to end it.

    >>> named("mos"), named("mos, by ridge")
    ('mos', '“mos, by ridge”')
    """
    return f"“{name}”" if any(mark in name for mark in ",;:()") else name


def size(n: int) -> str:
    """Write a number of bytes.

    >>> size(2048), size(3 * 2**20)
    ('2.0 KiB', '3.0 MiB')
    """
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def pairs(values: Mapping[str, Any]) -> str:
    """Write values by name; none at all are a dash.

    >>> pairs({"lr": 0.1, "epochs": 5}), pairs({})
    ('lr=0.1, epochs=5', '–')
    """
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "–"


def can_ask() -> bool:
    """Whether there is someone to answer: questions are put on standard error."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str) -> bool:
    """Ask for a yes; anything else, also the end of input, is a no."""
    typed = ""
    try:
        print(f"{terminal(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        typed = sys.stdin.readline()
    finally:
        if not typed.endswith("\n"):  # Ctrl-C or Ctrl-D: what is said next has a line of its own
            print(file=sys.stderr)
    return typed.strip().lower() in ("y", "yes")


def check_target(path: Path) -> None:
    """Raise InputError unless a file can be written at `path`; standard output always can.

    Asked before long work, so that its result is not lost at the end.
    """
    if path == STDOUT:
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it, e.g. {path / ('result' + path.suffix)}")
    if not path.parent.is_dir():
        raise InputError(f"no folder {path.parent} to write {path.name} in: make it first, or choose another path")
    try:
        # Asking the file system is the only sure way: permission bits say nothing of read-only mounts.
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write in {path.parent} ({error.strerror}): choose another path") from error


def check_folder(path: Path) -> None:
    """Raise InputError unless files can be written in a folder, which may have to be made, with those it is in."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file, and a folder is needed: choose another path")
    check_target(there / "file")


def make_folder(path: Path) -> None:
    """Make a folder, or go on with the one that is there; raises InputError unless files can be written in it."""
    if not path.is_dir():
        if path.exists():
            raise InputError(f"{path} is a file, and a folder is needed: choose another path")
        check_target(path)
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {path} ({error.strerror}): choose another path") from error
    check_target(path / "file")


@contextmanager
def new_folder(place: Path | None) -> Iterator[None]:
    """Make a folder, if one is named, for what the block writes; remove it again where that fails and it was not there.

    Raises InputError if files cannot be written in it.
    """
    fresh = place is not None and not place.exists()
    if place is not None:
        make_folder(place)
    try:
        yield
    except BaseException:
        if place is not None and fresh:
            with suppress(OSError):  # somebody else has put a file there
                place.rmdir()
        raise


def check_outputs(json_file: Path | None, csv_file: Path | None = None) -> None:
    """Raise InputError unless the files that are asked for can be written, at most one to standard output."""
    if json_file == csv_file == STDOUT:
        raise InputError("--json - and --csv - both ask for standard output: give one of them a file")
    for target in (json_file, csv_file):
        if target is not None:
            check_target(target)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file atomically, or to standard output for `-`.

    Raises InputError if it cannot be written; a file that was there before is then unchanged.
    """
    if _silent.get():
        return
    if path == STDOUT:
        out = console()
        # A file that is asked for on a terminal is read by people; in a pipe it is what it would be in a file.
        shown = "".join(terminal(line) + "\n" for line in text.split("\n")[:-1]) if out.is_terminal else text
        out.file.write(shown)
    else:
        files.write_text(path, text)


def write_json(path: Path | None, value: Any) -> bool:
    """Write JSON likewise, if a file is asked for; tell whether standard output is left for people to read."""
    if path is not None:
        write_text(path, files.json_text(value))
    return path != STDOUT
