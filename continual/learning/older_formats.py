"""Model files of earlier format versions, brought to the form of the newest one when they are read.

Version 1 has whole symmetric matrices (`gram`), version 2 their lower triangle; in both the JSON values of a method's
own state lie apart (`method_state`), and only hold what tensors do not say. See docs/model_file.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: names of parts of a state before version 3
RENAMED = {
    "readout/": "head/",
    "calibration/strangeness": "calibration/ood_scores",
    "certainty/strangeness": "certainty/ood_scores",
}


def upgraded(
    version: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and metadata of a model file as version 3 has them; raises KeyError for a damaged file."""
    if version >= 3:
        return dict(tensors), dict(values)
    found = {_renamed(name): tensor for name, tensor in tensors.items()}
    if version == 1 and "state/sums/gram" in found:
        from continual.statistics.triangles import lower_triangle

        found["state/sums/triangle"] = lower_triangle(found.pop("state/sums/gram"))
    rest = dict(values)
    own = rest.pop("method_state")
    state = _values_of([name.split("/")[1:] for name in found if name.startswith("state/")])
    for part in ("statistics", "shifts"):
        for entry, (kind, count) in zip(state.get(part, []), own.get(part, []), strict=bool(tensors)):
            entry |= {"kind": kind, "count": count}
    if own.get("temperature") is not None and "calibration" in state:
        state["calibration"]["temperature"] = own["temperature"]
    if rest["method"] == "ranpac" and rest["state"]["classes"]:
        state.setdefault("stack", {})  # what adapted nothing stored nothing
    return found, {**rest, "state": {"bank": [], "statistics": [], "shifts": [], **state, **rest["state"]}}


def _renamed(name: str) -> str:
    for before, now in RENAMED.items():
        if name.startswith(f"state/{before}"):
            return f"state/{now}" + name.removeprefix(f"state/{before}")
    return name


def _values_of(places: list[list[str]]) -> Any:
    """Return the JSON values that say what tensors there are: {} for a mapping, a list for numbered parts."""
    below: dict[str, list[list[str]]] = {}
    for first, *rest in places:
        below.setdefault(first, [])
        if rest:
            below[first].append(rest)
    values = {name: _values_of(rest) for name, rest in below.items() if rest}
    numbered = values and all(map(str.isdigit, values))
    return [values[str(number)] for number in range(len(values))] if numbered else values
