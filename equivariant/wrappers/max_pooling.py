"""The elementwise maximum over the orbit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from equivariant.errors import InputError
from equivariant.outputs import Extra, actions
from equivariant.wrappers.base import OrbitWrapper


class OrbitMax(OrbitWrapper):
    """f(x) = max_g g⁻¹∘M(g·x), elementwise: for class scores, each class takes its own best view.

    Options as for `OrbitWrapper`. Raises InputError for an output whose values do more than change places (a vector
    field, points, boxes): there the maximum is not equivariant.
    """

    name = "max"
    through_model = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for action in actions(self.output):
            if not action.permutes:
                raise InputError(f"a maximum over {action} is not equivariant: use Equitune, LambdaEquitune, Equizero")

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the maximum over the views of `x` (B, …); what follows is passed on to the model."""
        return self.views(x, extra=Extra(args, kwargs)).map(_largest)


def _largest(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        raise InputError(f"answers of {tensor.dtype} have no maximum: use Equizero, or return real numbers")
    return tensor.amax(0)
