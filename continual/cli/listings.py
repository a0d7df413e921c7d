"""The commands that only show: what a model file holds, and which methods there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from continual.console import STDOUT, add_row, check_target, console, count, new_table, show, size, write_text
from continual.lifecycle import contents
from continual.methods import methods


def info(model: Path, json_file: Path | None = None) -> None:
    """Show what a model file holds; the backbone is not built and may be out of reach."""
    if json_file is not None:
        check_target(json_file)
    found = contents.read(model)
    description = found.describe()
    if json_file is not None:
        write_text(json_file, json.dumps(description, indent=1) + "\n")
    if json_file != STDOUT:
        show(_info_table(description))


def _info_table(about: dict[str, Any]) -> Table:
    backbone, preparation = about["backbone"], about["backbone"]["preprocessing"]
    source = "embedded" if backbone["embedded"] else backbone["weights_file"] or "from timm's hub"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    add_row(table, "file", f"{about['file']}, {size(about['file_bytes'])}")
    add_row(table, "method", about["method"])
    learned = f"{count(len(about['classes']), 'class')} in {count(about['experiences'], 'experience')}"
    add_row(table, "learned", f"{learned}, {count(about['updates'], 'update')}")
    for experience in range(about["experiences"]):
        names = [
            str(c["name"]) + (f" ({c['images']})" if c["images"] is not None else "")
            for c in about["classes"]
            if c["experience"] == experience
        ]
        add_row(table, f"  experience {experience}", ", ".join(names))
    add_row(table, "backbone", f"{backbone['name']} ({source})")
    add_row(table, "  SHA-256", backbone["sha256"])
    add_row(table, "  arguments", _pairs(backbone["model_args"]))
    add_row(table, "  preprocessing", _pairs(preparation))
    add_row(table, "memory", ", ".join(f"{part} {size(n)}" for part, n in about["memory_bytes"].items()))
    add_row(table, "settings", _pairs(about["settings"]))
    add_row(table, "versions", _pairs(about["versions"]))
    return table


def list_methods(verbose: bool = False) -> None:
    """List the registered methods; `verbose` adds every setting."""
    table = new_table("method", "what it does", "paper", "exemplar-free", "backbone")
    for name, kind in methods().items():
        add_row(
            table,
            name,
            kind.summary,
            kind.paper,
            "yes" if kind.exemplar_free else "no",
            "any" if kind.any_backbone else "ViT",
        )
    show(table)
    for name, kind in methods().items() if verbose else ():
        fields = kind.settings_type.model_fields
        show(_settings_table(name, fields))
        for preset, values in kind.settings_type.presets.items():
            console().print(f"--method {name}_{preset}, or --method {name} --preset {preset}: {_pairs(values)}")


def _settings_table(name: str, fields: Any) -> Table:
    table = new_table("setting", "default", "type", "what it is")
    table.title, table.title_justify = f"settings of {name}", "left"
    for key, field in fields.items():
        add_row(table, key, field.default, _kind(field.annotation), field.description or "")
    return table


def _kind(annotation: Any) -> str:
    """Write a setting's type as its alternatives.

    >>> from typing import Literal
    >>> _kind(Literal["mean"] | None)
    "'mean' | None"
    """
    if isinstance(annotation, type):
        return annotation.__name__.removesuffix("Type")
    return " | ".join(map(_kind, get_args(annotation))) or repr(annotation)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "–"
