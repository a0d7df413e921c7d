"""The command `equimos`. Importing it, and `--help`, load neither torch nor Avalanche."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from continual import __version__
from continual.cli import data, deploy, edits
from continual.cli import equivariance as equivariance_cli
from continual.cli.options import Csv, Device, Images, Json, Model, ModelArg, Set, Symmetry, Workers
from continual.errors import EquimosError, is_out_of_memory, nearest

#: What the option parser raises; its home has moved between releases of typer.
ParserError: type[Any] = typer.BadParameter.__mro__[2]


class Commands(TyperGroup):
    """Commands whose every foreseeable failure is one line on standard error and exit code 2."""

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run a command line and exit: 0 if all went well, 2 for a mistake, 130 if interrupted."""
        try:
            sys.exit(super().main(args, prog_name, *rest, **{**extra, "standalone_mode": False}) or 0)
        except ParserError as error:
            _fail(error.format_message())
        except (EquimosError, OSError) as error:
            _fail(str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _fail(
                "out of memory: a smaller batch_size trains with less, a smaller eval_batch_size does all else with "
                "less (--set eval_batch_size=16, say); what was kept is kept"
            )

    def invoke(self, ctx: Any) -> Any:
        """Run a command; typer itself says nothing when it is interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            typer.echo(": ".join(["interrupted", *map(str, stop.args)]), err=True)
            raise typer.Exit(130) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or name the nearest."""
        if args[0] not in self.commands:
            ctx.fail(f"unknown command {args[0]!r}: {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def _fail(message: str) -> NoReturn:
    line = message.strip().replace(":\n", ": ").replace("\n", "; ")
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(line, err=True)
    sys.exit(2)


app = typer.Typer(
    cls=Commands,
    help="Continual learning on pretrained vision models: learn new classes for ever, keep no images.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(edits.app)
app.add_typer(deploy.app)
app.add_typer(data.app, name="data", cls=Commands)
app.add_typer(equivariance_cli.app, name="equivariance", cls=Commands)

Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The backbone's weights: .safetensors, .npz or .pth. For a model that exists, "
                 "where they are now; they must be the same."),
]  # fmt: skip
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Change the config, e.g. stream.per_class=20 methods.mos.epochs=5."),
]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Show the version, or the help where no command is given."""
    if version:
        typer.echo(f"equimos {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def learn(
    images: Images,
    model: Model,
    only: Annotated[
        list[str] | None, typer.Option("--class", "-c", metavar="NAME", help="Look at these class folders alone.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of a class's new images to evaluate on, not to learn.")
    ] = 0.2,
    keep_held_out: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Keep features of N held-out images a class, to see what breaks once these are gone; 0 drops them.",
        ),
    ] = None,
    max_flips: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Keep nothing if more than this share of held-out images was right and is not now."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Learn and keep without being asked.")] = False,
    backbone: Annotated[
        str | None, typer.Option(metavar="TAG", help="timm's full tag, e.g. vit_base_patch16_224.augreg_in21k.")
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    method: Annotated[
        str | None, typer.Option(help="How to learn; see `equimos methods`.", show_default="strata")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of the method's settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the method: epochs=5. Of a model that exists, those alone that say how much memory and "
            "time it takes, such as eval_batch_size and precision.",
        ),
    ] = None,
    symmetry: Symmetry = None,
    embed_backbone: Annotated[
        bool, typer.Option("--embed-backbone", help="Store the backbone's weights in the model file as well.")
    ] = False,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Learn what is new in an image folder: make a model, or add an experience to one.

    Shows a plan and asks; learns; shows what broke on held-out images, and asks again before it keeps the result.
    The model file changes only when everything has succeeded. A model that exists keeps its method, backbone and,
    but for sizes of batches and precision, its settings. Exit code 1: the answer was no, or --max-flips was passed.
    """
    from continual.cli import learn

    kept = learn.learn(
        model,
        images,
        only=only or (),
        hold_out=hold_out,
        keep_held_out=keep_held_out,
        max_flips=max_flips,
        dry_run=dry_run,
        yes=yes,
        backbone=backbone,
        weights=weights,
        model_args=model_arg or (),
        method_name=method,
        preset=preset,
        settings=[*(set_ or ()), *([f"group={symmetry}"] if symmetry else [])],
        embed_backbone=embed_backbone,
        device=device,
        workers=workers,
    )
    if not kept:
        raise typer.Exit(1)


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, or folders at any depth.")],
    json: Json = None,
    csv: Csv = None,
    unknown_rate: Annotated[
        float | None,
        typer.Option(help="Mark images unlike all classes, and about this share of those of known classes: 0.05."),
    ] = None,
    set_: Set = None,
    weights: Weights = None,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Name the class of images: the answer, its score, and the runner-up. Stacks count from 0."""
    from continual.cli import models

    models.predict(
        model,
        images,
        json_file=json,
        csv_file=csv,
        unknown_rate=unknown_rate,
        settings=set_ or (),
        weights=weights,
        device=device,
        workers=workers,
    )


@app.command()
def info(model: Model, json: Json = None) -> None:
    """Show what a model file holds, without its backbone. Experiences count from 0."""
    from continual.cli import listings

    listings.info(model, json)


@app.command()
def methods(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every setting and preset.")] = False,
) -> None:
    """List the methods that can be learned with."""
    from continual.cli import listings

    listings.list_methods(verbose)


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
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that share the cells.")] = 1,
    launcher: Annotated[str, typer.Option(help="Where the jobs run: local or slurm.")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="submitit's parameter: timeout_min=60, slurm_partition=gpu."),
    ] = None,
) -> None:
    """Run a benchmark, and show and store its results. The same command goes on with an interrupted run."""
    from continual.cli import runs as commands

    commands.run(
        config,
        changes or (),
        out,
        only=only or (),
        workers=workers,
        dry_run=dry_run,
        jobs=jobs,
        launcher=launcher,
        cluster_options=slurm or (),
    )


@app.command()
def show(config: Config, changes: Changes = None) -> None:
    """Check a config and print it in full, with every default, as TOML that can be run."""
    from continual.cli import runs as commands

    commands.show(config, changes or ())


@app.command("report")
def make_report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The report's folder.", show_default="report, in the first RUN")
    ] = None,
) -> None:
    """Compare finished runs: a page to read anywhere, tables and pictures, with published figures beside them.

    Runs on the same data, stream and backbone are shown in one table, with the spread over all their seeds.
    """
    from continual.cli import runs as commands

    commands.make_report(runs, out)


def main() -> None:
    """Run the command line."""
    app(prog_name="equimos")


if __name__ == "__main__":
    main()
