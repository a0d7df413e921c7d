"""The command that says why an image gets its answer: explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual import console
from continual.cli.loading import loading_pytorch
from continual.cli.options import Device, Json, Method, Model, Weights, check_there
from continual.errors import InputError, nearest
from continual.lifecycle import contents

if TYPE_CHECKING:
    from continual.explaining.explanation import Explanation

app = typer.Typer()


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="One image.")],
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The picture.", show_default="IMAGE-why.png, here"),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Say why the answer, and not this class.")
    ] = None,
    json: Json = None,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Say which places of an image carry its answer, and which classes and kept thumbnails it is like.

    For strata the shares of all patches add up to the value of the class, exactly. For other methods places are covered
    one after the other, and what the class loses is shown.
    """
    check_there([image])
    out = Path(f"{image.stem}-why.png") if out is None else out
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is a .png")
    console.check_target(out)
    console.check_outputs(json)
    found = contents.read(model)
    names = {str(label): label for label in found.classes}
    if against is not None and against not in names:
        raise InputError(f"the model has no class {against!r}: {nearest(against, names)}")
    with loading_pytorch():
        from continual import files
        from continual.cli import opening
        from continual.cli.progress import waiting
        from continual.explaining import drawing
        from continual.explaining.explain import explain as explained
        from continual.explaining.explain import prepared_for

    with waiting("loading the model"):
        learner = opening.load_learner(found, weights, device, method)
    with waiting("asking why"):
        reasons = explained(learner, image, None if against is None else names[against])
        like = found.thumbnails.nearest(learner, prepared_for(learner, image), found.seen)
        drawn = None if reasons.picture is None else drawing.drawn(reasons, [small for _, _, small in like])
    if drawn is not None:
        with files.written(out, InputError) as temporary:
            drawn.save(temporary, "PNG")
    about = {**reasons.to_json(), "thumbnails": [{"class": name, "similarity": near} for name, near, _ in like]}
    about["picture"] = None if drawn is None else str(out)
    if console.write_json(json, about):
        _show(reasons, [(name, near) for name, near, _ in like])
        said = "images of this model have no picture to draw on" if drawn is None else f"picture: {out}"
        console.console(stderr=True).print(said, markup=False)


def _show(found: Explanation, like: list[tuple[Any, float]]) -> None:
    """Print what the answer is made of, the strongest places, and what is like it."""
    against = "" if found.against is None else f", less that of {found.against}"
    rows: list[tuple[object, ...]] = []
    if found.exact:
        rows += [("every image gets", f"{found.base:+.3f}"), ("the image as a whole", f"{found.whole:+.3f}")]
        rows += [(f"its {found.places.size} patches", f"{found.places.sum():+.3f}")]
        rows += [(f"value of {found.answer}{against}", f"{found.value:+.3f}")]
        console.show_rows(rows, "part", "adds")
    else:
        console.show_rows([(f"{found.answer}{against}", f"{found.value:.3f}")], "answer", "probability or score")
    strongest = [(row + 1, column + 1, f"{value:+.3f}") for row, column, value in found.strongest()]
    of = f"of {found.places.shape[0]} x {found.places.shape[1]}"
    console.show_rows(strongest, f"row ({of})", "column", "adds" if found.exact else "lost when covered")
    console.show_rows([(name, f"{near:.3f}") for name, near in found.nearest], "nearest class", "cosine")
    console.show_rows([(name, f"{near:.3f}") for name, near in like], "nearest thumbnail", "cosine")
