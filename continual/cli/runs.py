"""The commands on a benchmark's config: run it, show it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from continual import distributed, options
from continual.cli.progress import ProgressBars
from continual.console import console
from continual.errors import InputError, nearest
from continual.experiments import report, tables
from continual.experiments.collected import collect
from continual.experiments.comparison import boards
from continual.experiments.config import RunConfig, load_runs
from continual.experiments.dry_run import plan
from continual.experiments.launching import on_cluster, on_this_machine
from continual.experiments.run import run_config


@distributed.processes()
def run(
    path: Path,
    changes: Sequence[str] = (),
    out: Path | None = None,
    *,
    only: Sequence[str] = (),
    workers: int = 0,
    dry_run: bool = False,
    jobs: int = 1,
    launcher: str = "local",
    cluster_options: Sequence[str] = (),
) -> None:
    """Run a config into a folder, print the table of results and say where the rest is; a sweep, one by one.

    With several `jobs`, as many processes share the cells; with the launcher "slurm" they are submitted, and
    this one ends. The processes of torchrun run each cell together, and the first speaks for all.
    """
    if distributed.count() > 1 and (jobs > 1 or launcher != "local"):
        raise InputError("torchrun has its processes run every cell together: leave out --jobs and --launcher")
    if launcher not in ("local", "slurm"):
        raise InputError(f"unknown launcher {launcher!r}: {nearest(launcher, ('local', 'slurm'))}")
    wanted = options.assignments("--slurm", cluster_options)
    runs = load_runs(path, changes)
    runs = {k: c.model_copy(update={"device": str(options.device(c.device))}) for k, c in runs.items()}
    out = out or _folder(path, changes)
    if dry_run:
        for name, config in runs.items():
            if distributed.first():
                console().print("\n".join(plan(config, out / name)))
        return
    remarks = console(stderr=True)
    remarks.quiet = not distributed.first()
    words = ["run", str(path), *changes, "--out", str(out), "--workers", str(workers)]
    words += [word for label in only for word in ("--only", label)]
    if launcher == "slurm":
        submitted = on_cluster(words, jobs, out.with_name(f"{out.name}-slurm"), wanted)
        ids = ", ".join(str(job.job_id) for job in submitted)
        remarks.print(f"submitted {ids}; the same command without --launcher shows what is finished")
        return
    if jobs > 1:
        on_this_machine(words, jobs, remarks.print)
    for name, config in runs.items():
        distributed.use(config.device)
        folder = out / name
        known = " (cells that are there are not run again)" if folder.exists() else ""
        remarks.print(f"{config.title}: {', '.join(config.methods)}; results in {folder}{known}")
        with ProgressBars(remarks) as bars:
            cells = run_config(config, folder, bars, only, workers)
        if cells:
            console().print(report.terminal(config.title, cells))
        files = sorted(str(p) for p in folder.iterdir() if p.is_file())
        remarks.print(f"table, curves and figures: {', '.join(files)}")


def _folder(path: Path, changes: Sequence[str]) -> Path:
    """Return runs/<config>, with a mark for other values, so that the same command finds its folder again."""
    mark = f"-{hashlib.sha256(json.dumps(sorted(changes)).encode()).hexdigest()[:6]}" if changes else ""
    return Path("runs") / f"{path.stem}{mark}"


def make_report(folders: Sequence[Path], out: Path | None = None) -> None:
    """Report on finished runs: print a table, write page, tables and pictures, and say where they are."""
    runs = [collect(folder) for folder in folders]
    found = boards(runs)
    out = out or folders[0] / "report"
    report.check_folder(out)
    remarks = console(stderr=True)
    for run in runs:
        if run.missing:
            remarks.print(f"not finished in {run.path}, and left out: {', '.join(run.missing)}")
    files = report.write_report(found, runs, out)
    for board in found:
        console().print(tables.terminal(board.title, tables.results_table(board.cells, board.protocol)))
        for note in board.notes():
            remarks.print(note)
    remarks.print(f"page: {files[0]}; {len(files) - 1} tables and pictures in {out}")


def show(path: Path, changes: Sequence[str] = ()) -> None:
    """Print a config with every default; of a sweep, each of its runs under a comment with its name."""
    for name, config in load_runs(path, changes).items():
        print((f"# sweep.{name}\n" if name else "") + document(config), end="")


def document(config: RunConfig) -> str:
    """Return a config as TOML with every setting; reading it again gives the same run."""
    values = config.model_dump(mode="json", exclude={"methods"})
    values["methods"] = {
        label: {"method": row.method, **row.make_settings().model_dump(mode="json"), "variants": row.variants}
        for label, row in config.methods.items()
    }
    return _toml(values)


def _toml(values: Mapping[str, Any], place: str = "") -> str:
    """Write a table; None, which TOML lacks, is left out, as its default says the same."""
    plain = {k: v for k, v in values.items() if v is not None and not isinstance(v, Mapping)}
    tables = {k: v for k, v in values.items() if isinstance(v, Mapping) and v}
    text = "".join(f"{_key(k)} = {_value(v)}\n" for k, v in plain.items())
    if place and text:
        text = f"\n[{place}]\n{text}"
    return text + "".join(_toml(v, f"{place}.{_key(k)}" if place else _key(k)) for k, v in tables.items())


def _key(name: str) -> str:
    return name if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name) else json.dumps(name)


def _value(value: Any) -> str:
    """Write one value: JSON's strings, numbers, booleans and lists are TOML's."""
    return json.dumps(value, ensure_ascii=False)
