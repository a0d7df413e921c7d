"""The commands on what is kept for other runs: cache show, cache clear."""

from __future__ import annotations

import json as json_
import time
from itertools import groupby
from typing import Any

import typer

from continual.cli.options import Json
from continual.console import check_outputs, console, show_rows, size, write_json

app = typer.Typer(help="Features of frozen networks, which `equimos run` shares between runs.")

#: what is shown of features that were written while the store was cleared: nothing says what they are of
UNKNOWN = {
    "backbone": {"name": "unknown", "sha256": "unknown"},
    **dict.fromkeys(("reading", "precision", "device"), "unknown"),
}


@app.command()
def show(json: Json = None) -> None:
    """Show which features are kept, where, and how much they take."""
    from continual.learning.feature_store import LIMIT, contents, default_folder

    check_outputs(json)
    rows: list[dict[str, Any]] = []
    for reading, group in groupby(sorted(contents(), key=lambda kept: kept.reading), key=lambda kept: kept.reading):
        kept, what = [*group], UNKNOWN | json_.loads(reading)
        about = {"backbone": what["backbone"]["name"], "sha256": what["backbone"]["sha256"][:12]}
        about |= {"reading": what["reading"], "precision": what["precision"], "device": what["device"]}
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(k.used for k in kept)))
        rows.append({**about, "bytes": sum(k.nbytes for k in kept), "used": used})
    if not write_json(json, {"folder": str(default_folder()), "limit": LIMIT, "readings": rows}):
        return
    if rows:
        shown = ({**row, "bytes": size(row["bytes"])}.values() for row in rows)
        show_rows(shown, "backbone", "weights", "reading", "precision", "device", "size", "last used")
    taken = sum(row["bytes"] for row in rows)
    console().print(f"{default_folder()}: {size(taken)}; {size(LIMIT)} at most, the longest unused are removed first")


@app.command()
def clear() -> None:
    """Remove them all; runs compute them again."""
    from continual.learning.feature_store import clear, default_folder

    console().print(f"{default_folder()}: {size(clear())} removed")
