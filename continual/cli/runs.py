"""The commands on a benchmark's config and its runs: run, show, report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.loading import loading_pytorch
from continual.cli.options import (
    CONFIG,
    Columns,
    Config,
    Jobs,
    Launcher,
    Ray,
    Slurm,
    Workers,
    check_launcher,
    config_names,
)
from continual.console import check_folder, console, show_rows
from continual.errors import InputError

if TYPE_CHECKING:
    from continual.experiments.config import RunConfig
    from continual.experiments.equivariance.config import StudyConfig
    from continual.experiments.published import Protocol
    from continual.metrics.cell import Cell

app = typer.Typer()

WIDE = 160  #: columns of a terminal in which all main measures fit

Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Change the config, e.g. stream.per_class=20 methods.mos.epochs=5."),
]


AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Also to check a config, import the Python files that it names.")
]


@app.command()
def run(
    config: Config,
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run folder.", show_default="runs/NAME-OF-CONFIG")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="Run only this method now; processes can share a run folder."),
    ] = None,
    workers: Workers = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check data, weights and stream, and say how much work it is.")
    ] = False,
    allow_code: AllowCode = False,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Share frozen features with other methods, seeds and runs.")
    ] = True,
    log: Annotated[
        str | None,
        typer.Option(metavar="TRACKER", help="Log finished cells: tensorboard, wandb or mlflow (`equimos list`)."),
    ] = None,
    every: Columns = False,
    jobs: Jobs = 1,
    launcher: Launcher = "local",
    slurm: Slurm = None,
    ray: Ray = None,
) -> None:
    """Run a benchmark, and show and store its results. The same command resumes an interrupted run.

    Python files that the config names are imported and run; with --dry-run only if --allow-code is there as well.

    With several --jobs, as many processes share the cells; with --launcher slurm they are submitted, and this one ends.
    With --launcher ray each cell is a task of a Ray cluster, and what it measured is added to experiences.parquet.
    Frozen features are kept on the disk, up to 8 GiB: see `equimos cache show`. Times are as if they had been computed.

    The processes of torchrun run each cell together, and the first speaks for all.
    """
    from continual.experiments import shipped

    config = shipped.find(config)
    if shipped.is_study(config):
        raise InputError(f"{config} is a study of wrappers: `equimos equivariance tune` runs it")
    with loading_pytorch():
        from continual import distributed, options
        from continual.cli.progress import ProgressBars
        from continual.experiments.config import load_runs
        from continual.experiments.dry_run import plan
        from continual.experiments.launching import on_cluster, on_this_machine
        from continual.experiments.run import run_config
        from continual.experiments.trackers import TRACKERS
        from continual.learning.feature_store import FeatureStore
        from continual.registry import without_code

    with distributed.processes():
        if distributed.count() > 1 and (jobs > 1 or launcher != "local"):
            raise InputError("torchrun has its processes run every cell together: leave out --jobs and --launcher")
        check_launcher(launcher, jobs)
        kind = None if log is None else TRACKERS.get(log)
        if kind is not None and launcher == "ray":
            raise InputError("workers of Ray do not log: leave out --log, or --launcher")
        wanted, on_workers = options.assignments("--slurm", slurm or ()), options.assignments("--ray", ray or ())
        with without_code(str(config) if dry_run and not allow_code else None):
            configs = load_runs(config, changes or ())
        if launcher != "ray" or dry_run:  # a worker of Ray has devices of its own
            configs = {k: c.model_copy(update={"device": str(options.device(c.device))}) for k, c in configs.items()}
        out = out or _folder(config, changes or ())
        if dry_run:
            for name, each in configs.items():
                if distributed.first():
                    for line in plan(each, out / name):
                        console().print(line)
            return
        check_folder(out)
        remarks = console(stderr=True)
        remarks.quiet = not distributed.first()
        words = ["run", str(config), *(changes or ()), "--out", str(out), "--workers", str(workers)]
        words += [word for label in only or () for word in ("--only", label)]
        words += ([] if store else ["--no-store"]) + ([] if log is None else ["--log", log])
        if launcher == "slurm":
            submitted = on_cluster(words, jobs, out.with_name(f"{out.name}-slurm"), wanted)
            ids = ", ".join(str(job.job_id) for job in submitted)
            remarks.print(f"submitted {ids}; the same command without --launcher shows what is finished")
            return
        if launcher == "ray":
            from continual.experiments.on_ray import run_cells

            found = run_cells(configs, out, on_workers, remarks.print, only or (), workers, store)
            for name, cells in found.items():
                if cells:
                    _show_table(configs[name].title, cells, every=every)
            return
        if jobs > 1:
            on_this_machine(words, jobs, remarks.print)
        for name, each in configs.items():
            distributed.use(each.device)
            folder = out / name
            known = " (cells that are there are not run again)" if folder.exists() else ""
            labels = "; ".join(label for label in each.methods if not only or label in only)  # some have a comma
            remarks.print(f"{each.title}: {labels}. Results in {folder}{known}")
            tracker, kept = None if kind is None else kind(folder), FeatureStore() if store else None
            with ProgressBars(remarks) as bars:
                cells = run_config(each, folder, bars, only or (), workers, kept, tracker)
            if cells:
                _show_table(each.title, cells, every=every)
            files = sorted(str(p) for p in folder.iterdir() if p.is_file())
            remarks.print(f"table, curves and figures: {', '.join(files)}")


@app.command()
def show(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help=CONFIG, autocompletion=config_names)] = None,
    changes: Changes = None,
    allow_code: AllowCode = False,
) -> None:
    """Check a config and print it in full, with every default, as TOML that can be run; without one, list those here.

    Python files that it names are not imported, unless with --allow-code.
    """
    from continual.experiments import shipped

    if config is None:
        show_rows(((name, shipped.title(path)) for name, path in shipped.shipped().items()), "config", "what it is")
        return
    config = shipped.find(config)
    if shipped.is_study(config):
        with loading_pytorch():
            from continual.experiments.equivariance.config import load_study

        print(study_document(load_study(config, changes or ())), end="")
        return
    with loading_pytorch():
        from continual.experiments.config import load_runs
        from continual.registry import without_code

    with without_code(None if allow_code else str(config)):
        found = load_runs(config, changes or ())
    for name, each in found.items():
        print((f"# sweep.{name}\n" if name else "") + document(each), end="")


@app.command("report")
def make_report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or those of a sweep.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The report's folder.", show_default="report, in the first RUN")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="METRIC,...", help="Of table.md and table.tex; `equimos list metrics` names them."),
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also write cells.parquet and experiences.parquet; needs equimos[pandas].")
    ] = False,
    every: Columns = False,
) -> None:
    """Compare finished runs: a page to read anywhere, tables and pictures, with published figures beside them.

    Runs on the same data, stream and backbone are shown in one table, with the spread over all their seeds.
    """
    with loading_pytorch():
        from continual.cli.progress import waiting
        from continual.experiments import report
        from continual.experiments.comparison import boards
        from continual.experiments.run_folder import collect, runs_in

    collected = [collect(run) for folder in runs for run in runs_in(folder)]
    found = boards(collected)
    out = out or runs[0] / "report"
    report.check_folder(out)
    remarks = console(stderr=True)
    for one in collected:
        if one.missing:
            remarks.print(f"not finished in {one.path}, and left out: {', '.join(one.missing)}")
    chosen = None if columns is None else [name.strip() for name in columns.split(",")]
    with waiting("drawing the pictures and writing the page"):
        files = report.write_report(found, collected, out, chosen)
        if parquet:
            files += report.write_parquet(runs, out)
    for board in found:
        _show_table(board.title, board.cells, board.protocol, every=every)
        for note in board.notes():
            remarks.print(note)
    remarks.print(f"page: {files[0]}; {len(files) - 1} tables and pictures in {out}")


def _show_table(title: str, cells: Sequence[Cell], protocol: Protocol | None = None, *, every: bool) -> None:
    """Print the results: all of them if asked for, or where nobody reads along, else what fits; and what they say."""
    from continual.experiments import tables
    from continual.experiments.conclusion import conclusion

    out = console()
    brief = not every and out.is_terminal and out.width < WIDE
    out.print(tables.terminal(title, tables.results_table(cells, protocol, brief=brief)))
    remarks = console(stderr=True)
    for line in conclusion(cells)[:1]:
        remarks.print(line)
    if brief:
        remarks.print("--all shows every measure")


def _folder(path: Path, changes: Sequence[str]) -> Path:
    """Return runs/<config>, with a mark for other values, so that the same command finds its folder again."""
    from continual.experiments import shipped

    mark = f"-{hashlib.sha256(json.dumps(sorted(changes)).encode()).hexdigest()[:6]}" if changes else ""
    return shipped.run_folder(path, mark)


def document(config: RunConfig) -> str:
    """Return a config as TOML with every setting; reading it again gives the same run."""
    values = config.model_dump(mode="json", exclude={"methods"})
    values["methods"] = {
        label: {"method": row.method, **row.make_settings().model_dump(mode="json"), "variants": row.variants}
        for label, row in config.methods.items()
    }
    return _toml(values)


def study_document(study: StudyConfig) -> str:
    """Return a study of wrappers as TOML with every setting; reading it again gives the same study."""
    values = study.model_dump(mode="json", exclude={"rows"})
    values["rows"] = {
        label: {"wrapper": row.wrapper, "chunk": row.chunk, "recipe": row.recipe, **row.options}
        for label, row in study.rows.items()
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


def _value(value: Any) -> str:
    """Write a value in a line: JSON's strings, numbers and booleans are TOML's, its objects are not."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name) else json.dumps(name)
