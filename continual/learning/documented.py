"""Settings where people look for them: in `help`, in signatures, and in what an editor completes."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.fields import FieldInfo


def documented(learner: Any) -> None:
    """Give a learner's class a signature with its settings by name, and list them in its docstring, own ones first."""
    settings = learner.settings_type
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = [
        inspect.Parameter(name, keyword, default=default_of(field), annotation=field.annotation)
        for name, field in ordered(settings).items()
    ]
    given = [p for p in inspect.signature(learner.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
    learner.__signature__ = inspect.Signature([*given, *named])
    if learner.__doc__ and "Settings:" not in learner.__doc__ and "__doc__" in vars(learner):
        lines = "".join(f"    {setting_line(name, field)}\n" for name, field in ordered(settings).items())
        learner.__doc__ = f"{inspect.cleandoc(learner.__doc__)}\n\nSettings:\n{lines}"


def own_fields(settings: Any) -> dict[str, FieldInfo]:
    """Return the settings that a method's class defines itself, or gives another default."""
    own = vars(settings).get("__annotations__", {})
    return {name: field for name, field in settings.model_fields.items() if name in own}


def default_of(field: FieldInfo) -> Any:
    """Return a setting's default value."""
    return field.get_default(call_default_factory=True)


def ordered(settings: Any) -> dict[str, FieldInfo]:
    """Return all settings, a method's own first."""
    return own_fields(settings) | settings.model_fields


def setting_line(name: str, field: FieldInfo) -> str:
    """Return a setting's name, default and meaning."""
    return f"{name} = {default_of(field)!r}" + (f": {field.description}" if field.description else "")
