"""How accurate is a classifier on untransformed and on transformed images, plain and in wrappers?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from continual.console import count
from continual.errors import InputError
from continual.experiments.equivariance.config import WrapperConfig
from continual.experiments.equivariance.data import Part, of_folder, score_indices
from continual.experiments.equivariance.files import Opened
from continual.experiments.equivariance.report import Results, Row
from continual.experiments.equivariance.study import on_all_views, with_fitted_head
from continual.experiments.equivariance.symmetry import Measuring, wrapped
from continual.learning.extractor import Progress
from continual.seeding import seeded
from continual.symmetry.views import group_named
from equivariant.groups import FiniteGroup
from equivariant.parts.surgery import device_of

#: the rows where none are asked for
ROWS = ("plain", "equitune", "equizero", "max")


def evaluate(
    opened: Opened,
    folder: Path,
    classes: Sequence[str],
    part: Part,
    group: FiniteGroup | None,
    wrappers: Mapping[str, WrapperConfig],
    *,
    fit: Path | None = None,
    batch_size: int = 64,
    progress: Progress,
) -> Results:
    """Measure a classifier on the images of a folder, see `of_folder`, in some wrappers by label, or in its own.

    Its group is by default its own, or C4. `fit` is a folder of images to fit a linear head to first.
    """
    found, group = opened.classifier, group or opened.group or group_named("C4")
    if opened.whole is not None and (wrappers or fit):
        raise InputError(f"{found.name} holds its own wrapper and head: leave out --wrapper and --fit")
    viewed = found
    if fit is not None:
        known, train = of_folder(fit)
        found = with_fitted_head(found, train, known, opened.device, progress)
        viewed = with_fitted_head(found, train, known, opened.device, progress, group)
    data = part.prepared(found.preprocessing, score_indices(found, classes))
    measure, rows = Measuring(found.features, group, data, batch_size, progress), []
    if opened.whole is not None:
        measures = measure(opened.whole, "test images", frozen=False)
        rows.append(Row(Path(found.name).name, "tuned", None, 0, measures))
    else:
        for label, config in (wrappers or {name: WrapperConfig(wrapper=name) for name in ROWS}).items():
            with seeded(0, "wrapper"):
                head = viewed.head if on_all_views(config) else found.head
                model = wrapped(config, found.features, head, group)
            measures = measure(model.to(device_of(found.features)).eval(), f"{label}: test images")
            rows.append(Row(label, config.wrapper, None, 0, measures))
    title = f"{found.name} on {count(len(part.classes), 'image')} of {folder}, {group.name}"
    return Results(title, group.name, rows)
