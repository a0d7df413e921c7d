"""The architecture of a checkout as a picture: folders and flat files on floors, imports as arrows, circles counted.

    python benchmarks/architecture.py docs/images/architecture.png [BEFORE] [NOW]

Each of the given checkouts (this one if there is none) is a panel. A room is a folder, or a file that lies flat, of
`continual/` and `equivariant/`; it stands one floor above the highest room that it imports.
"""

from __future__ import annotations

import ast
from pathlib import Path

import arguments
import matplotlib.pyplot as plt

PACKAGES = ("continual", "equivariant")
Arrows = dict[str, set[str]]


def arrows_of(root: Path) -> tuple[Arrows, int]:
    """Return which rooms each room imports, and how many files import one another in circles."""
    files = {path: path.relative_to(root).with_suffix("").parts for p in PACKAGES for path in (root / p).rglob("*.py")}
    names = {".".join(parts) for parts in files.values()}
    rooms: Arrows = {".".join(parts[:2]): set() for parts in files.values() if parts[-1] != "__init__"}
    between: Arrows = {name: set() for name in names}
    for path, parts in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module or node.module.split(".")[0] not in PACKAGES:
                continue
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                target = full if full in names else node.module
                if target in names:
                    between[".".join(parts)].add(target)
                own, other = ".".join(parts[:2]), ".".join(target.split(".")[:2])
                if own in rooms and other in rooms and own != other:
                    rooms[own].add(other)
    return rooms, sum(name in _reached(between, name) for name in names)


def _reached(arrows: Arrows, start: str) -> set[str]:
    seen: set[str] = set()
    todo = set(arrows[start])
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= arrows.get(name, set()) - seen
    return seen


def floors_of(arrows: Arrows) -> dict[str, int]:
    """Return the floor of each room; arrows that close a circle of rooms are passed over."""
    floors: dict[str, int] = {}

    def floor(name: str, trail: tuple[str, ...]) -> int:
        if name not in floors:
            below = [floor(other, (*trail, name)) for other in arrows[name] if other not in trail and other != name]
            floors[name] = 1 + max(below, default=0)
        return floors[name]

    for name in sorted(arrows):
        floor(name, ())
    return floors


def draw(panel: plt.Axes, root: Path, title: str) -> None:
    """Draw a checkout's rooms and arrows, and print its counts."""
    arrows, circular = arrows_of(root)
    floors = floors_of(arrows)
    rows = [[name for name in sorted(floors) if floors[name] == n] for n in range(1, max(floors.values()) + 1)]
    place = {name: ((i + 0.5) / len(row), n) for n, row in enumerate(rows) for i, name in enumerate(row)}
    count = sum(map(len, arrows.values()))
    for name, others in arrows.items():
        for other in others:
            up = place[other][1] >= place[name][1]
            panel.plot(*zip(place[name], place[other], strict=True), color="C3" if up else "0.75", lw=0.6, zorder=0)
    for name, (x, y) in place.items():
        panel.text(
            x,
            y,
            name.partition(".")[2],
            ha="center",
            va="center",
            fontsize=6,
            bbox={"fc": "w", "ec": "0.5", "pad": 1.5},
        )
    said = f"{len(place)} rooms, {count} arrows, {circular} files in circles"
    panel.set_title(f"{title}: {said}", fontsize=9)
    panel.axis("off")
    print(f"{title}: {said}")


def main() -> None:
    """Draw the checkouts named on the command line."""
    parser = arguments.parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("roots", type=Path, nargs="*", default=[Path(__file__).parents[1]])
    asked = parser.parse_args()
    roots = asked.roots
    figure, panels = plt.subplots(len(roots), 1, figsize=(12, 5.5 * len(roots)), squeeze=False, layout="constrained")
    for panel, root, title in zip(panels.flat, roots, ("before", "now") if len(roots) > 1 else ("now",), strict=True):
        draw(panel, root, title)
    figure.savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
