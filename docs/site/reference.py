"""A hook of the site: the pages of reference that are written from the code."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import equivariant
from continual.cli.app import app
from continual.experiments.config import RunConfig
from continual.experiments.equivariance.config import StudyConfig
from continual.methods import methods

STUB = Path(__file__).resolve().parents[2] / "continual" / "__init__.pyi"


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield "# Commands\n"
    root = typer.main.get_command(app)
    yield from _command(root, typer.Context(root, info_name="equimos"))


def _command(command: Any, context: Any) -> Iterator[str]:
    if (parts := getattr(command, "commands", None)) is None or context.parent is None:
        yield f"## `{context.command_path}`\n\n{_text(command.help)}\n"
        yield "| argument or option | what it is |\n| --- | --- |"
        for parameter in command.get_params(context):
            if record := parameter.get_help_record(context):  # hidden ones have none
                yield "| `{}` | {} |".format(*map(_cell, record))
        yield ""
    for name, part in sorted((parts or {}).items()):
        yield from _command(part, typer.Context(part, parent=context, info_name=name))


def settings() -> Iterator[str]:
    """Every method's settings."""
    yield "# Settings of the methods\n"
    for name, kind in methods().items():
        yield f"## `{name}`\n\n{kind.summary} ({kind.paper})\n"
        yield from _table(kind.settings_type)
        for preset, values in kind.settings_type.presets.items():
            yield f"Preset `{preset}`: " + ", ".join(f"`{key} = {value!r}`" for key, value in values.items()) + "\n"


def config() -> Iterator[str]:
    """The keys of the two kinds of config."""
    yield "# Keys of a config\n"
    for title, model in (("equimos run", RunConfig), ("equimos equivariance tune", StudyConfig)):
        yield f"## `{title} CONFIG`\n"
        yield from _nested(model, "")


def _nested(model: type[BaseModel], path: str) -> Iterator[str]:
    yield f"### `[{path}]`\n" if path else "### At the top\n"
    yield from _table(model)
    for name, field in model.model_fields.items():
        for part in _models(field.annotation):
            yield from _nested(part, f"{path}.{name}".lstrip("."))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | what it is |\n| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        kind, text = _cell(_type(field.annotation)), _cell(field.description or "")
        yield f"| `{name}` | `{kind}` | {_default(field)} | {text} |"
    yield ""


def _type(annotation: Any) -> str:
    parts = get_args(annotation)
    match get_origin(annotation):
        case typing.Annotated:
            return _type(parts[0])
        case typing.Literal:
            return " or ".join(map(repr, parts))
        case types.UnionType | typing.Union:
            return " or ".join(map(_type, parts))
        case None:
            return "None" if annotation is types.NoneType else getattr(annotation, "__name__", str(annotation))
        case container:
            return f"{container.__name__}[{', '.join(map(_type, parts))}]"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else f"`{_cell(repr(value))}`"


def _text(help_: str | None) -> str:
    return re.sub(r"\s+", " ", help_ or "").strip()


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def names(package: str, listed: list[str]) -> Iterator[str]:
    """The public names of a package, each from the module that holds it."""
    yield f"# `{package}`\n"
    for name in listed:
        yield f"::: {name}\n"


def public_continual() -> list[str]:
    """Where every public name of `continual` is."""
    imports = re.findall(r"^from (\S+) import (\w+) as \w+$", STUB.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [f"{module}.{name}" for module, name in imports]


def public_equivariant() -> list[str]:
    """Where every public name of `equivariant` is."""
    return [f"{vars(equivariant)[name].__module__}.{name}" for name in equivariant.__all__]


PAGES = {
    "commands": commands,
    "settings": settings,
    "config": config,
    "continual": lambda: names("continual", public_continual()),
    "equivariant": lambda: names("equivariant", public_equivariant()),
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site."""
    from mkdocs.structure.files import File

    for page, lines in PAGES.items():
        files.append(File.generated(config, f"reference/{page}.md", content="\n".join(lines())))
    return files
