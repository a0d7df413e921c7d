"""The command `equimos`. Importing it, and `--help`, load neither torch nor Avalanche."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from continual import __version__
from continual.cli import (
    cache,
    concepts,
    data,
    deploy,
    edits,
    equivariance,
    explaining,
    learn,
    listings,
    merging,
    models,
    porting,
    resizing,
    runs,
    searching,
    selecting,
    sharing,
)
from continual.errors import EquimosError, is_out_of_memory, nearest
from continual.escaping import terminal

#: What the option parser raises; its place differs between releases of typer.
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
            typer.echo(terminal(": ".join(["interrupted", *map(str, stop.args)])), err=True)
            raise typer.Exit(130) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or name the nearest."""
        if args[0] not in self.commands:
            ctx.fail(f"unknown command {args[0]!r}: {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with its whole first sentence: the parser's own list cuts it at one line."""
        whole = 1000
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(whole)) for name in self.commands])


def _fail(message: str) -> NoReturn:
    line = terminal(message.strip().replace(":\n", ": ").replace("\n", "; "))
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(line, err=True)
    sys.exit(2)


app = typer.Typer(
    cls=Commands,
    help="Continual learning on pretrained vision models: learn new classes again and again, keep no images.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options on 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (
    learn,
    models,
    explaining,
    listings,
    runs,
    searching,
    edits,
    merging,
    porting,
    resizing,
    selecting,
    sharing,
    deploy,
):
    app.add_typer(group.app)
app.add_typer(data.app, name="data", cls=Commands)
app.add_typer(concepts.app, name="concept", cls=Commands)
app.add_typer(cache.app, name="cache", cls=Commands)
app.add_typer(equivariance.app, name="equivariance", cls=Commands)


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


@app.command("help")
def help_(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="Of this command.")] = None,
) -> None:
    """Show the help of a command: `equimos help learn`, `equimos help data prepare`."""
    assert context.parent is not None
    context.parent.command.main([*(words or ()), "--help"], prog_name=context.parent.info_name)


def main() -> None:
    """Run the command line."""
    app(prog_name="equimos")
