"""The configs that come with the package, by name: `quickstart`, `cifar100/mos_b0_inc5`. Nothing is loaded for them.

`configs/` of a checkout is linked to from here, and is part of an installed package.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path

from continual.errors import InputError, nearest

FOLDER = Path(__file__).with_name("configs")
STUDIES = "equivariance"  #: the folder of what `equimos equivariance tune` reads


def shipped() -> dict[str, Path]:
    """Return every config by its name: its path in the folder, without the suffix."""
    found = sorted(FOLDER.rglob("*.toml")) if FOLDER.is_dir() else []
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in found}


def find(given: Path, below: str = "") -> Path:
    """Return the place of a config that a user names: a file, or else one that comes with the package.

    `below` is the folder in which a name is looked up, too. What looks like a file is one, whether it is there or not;
    `configs/NAME.toml`, as documents write it for a checkout, is found anywhere. Raises InputError with the nearest
    names for an unknown name.
    """
    name, known = given.as_posix(), shipped()
    if given.suffix or given.is_file():
        elsewhere = name.startswith("configs/") and not given.exists()
        return known.get(name.removeprefix("configs/").removesuffix(".toml"), given) if elsewhere else given
    for full in (f"{below}/{name}" if below else name, name):
        if full in known:
            return known[full]
    meant = get_close_matches(name, known, cutoff=0.5)
    hint = nearest(name, meant) if meant else "`equimos show` lists them"
    raise InputError(f"no file {given}, and no config of that name comes with equimos: {hint}")


def run_folder(path: Path, mark: str = "") -> Path:
    """Return where a config's results go if nothing else is said: runs/NAME, or runs/FILE of one's own."""
    names = {place.resolve(): name for name, place in shipped().items()}
    return Path("runs") / f"{names.get(path.resolve(), path.stem)}{mark}"


def is_study(path: Path) -> bool:
    """Tell a study of wrappers from a benchmark of methods; what cannot be read is for others to refuse."""
    try:
        return "rows" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def title(path: Path) -> str:
    """Return the title of a config."""
    return str(tomllib.loads(path.read_text(encoding="utf-8")).get("title", ""))
