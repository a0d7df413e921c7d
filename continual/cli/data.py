"""The commands `equimos data ...`: signatures alone, so that `--help` loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from continual.cli.options import Json

app = typer.Typer(help="List, prepare and check data sets.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH", help="A published data set, an image folder, a CSV manifest, parquet, or hub:OWNER/NAME."
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where a published data set lies.", show_default="$EQUIMOS_DATA/NAME"),
]
Domains = Annotated[bool, typer.Option("--domains", help="Class folders lie in folders of domains: DOMAIN/CLASS.")]
Share = Annotated[float, typer.Option(help="Share of each class for testing, where the source has no split.")]
Seed = Annotated[int, typer.Option(help="Which images those are.")]


@app.command("list")
def list_(json: Json = None) -> None:
    """List the published data sets: counts, protocols, licence, and whether they are here."""
    from continual.cli import data_commands

    data_commands.list_data(json)


@app.command()
def check(
    name: Name, root: Root = None, domains: Domains = False, test_share: Share = 0.2, split_seed: Seed = 1993,
    json: Json = None,
) -> None:  # fmt: skip
    """Open every image and compare the counts with the published ones; nothing is written or fetched."""
    from continual.cli import data_commands

    data_commands.check(data_commands.config_of(name, root, domains, test_share, split_seed), json)


@app.command()
def prepare(
    name: Name, root: Root = None, domains: Domains = False, test_share: Share = 0.2, split_seed: Seed = 1993,
    download: Annotated[bool, typer.Option("--download", help="Fetch it if it is not there; says how much.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The manifest.", show_default="equimos.csv in its folder")
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Check a data set and record its split as a manifest, which from then on decides it."""
    from continual.cli import data_commands

    config = data_commands.config_of(name, root, domains, test_share, split_seed)
    data_commands.prepare(config, download=download, out=out, json_file=json)
