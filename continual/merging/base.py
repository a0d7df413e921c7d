"""What a merge rule is, and how rules act on adapters.

A rule is a pure function of flat vectors: `stacks` (T, P), one a finished adapter, that all began at `start` (P,),
to one (P,). Whatever asks for a merge, the anchor of a training or a consolidation, asks here. In training, the working
adapter is pulled towards such an anchor (MOS, equation 6).
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from continual.errors import InputError, nearest
from continual.merging import RULES
from continual.registry import named

#: Names a function `(stacks (T, P), start (P,), **settings) -> (P,)` as a merge rule.
rule = named


def merged(
    name: str,
    adapters: Sequence[Mapping[str, Tensor]],
    start: Mapping[str, Tensor] | None = None,
    /,
    *,
    only: Collection[str] | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """Return finished adapters merged into one by the rule of that name.

    Adapters have tensors of the same names and shapes. `start` is what all of them began at; without it, zeros. With
    `only`, tensors of those names are merged, and the others are the first adapter's.
    Raises ValueError if there is no adapter, InputError for an unknown rule or a setting that it does not have.
    """
    if not adapters:
        raise ValueError("no adapter to merge: pass at least one that is finished")
    check_settings(name, settings)
    like = {key: tensor for key, tensor in adapters[0].items() if only is None or key in only}
    flat = torch.stack([_flat(adapter, like) for adapter in adapters])
    origin = torch.zeros_like(flat[0]) if start is None else _flat(start, like)
    parts = RULES.get(name)(flat, origin, **settings).split([tensor.numel() for tensor in like.values()])
    merges = zip(like.items(), parts, strict=True)
    return {**adapters[0], **{key: part.reshape(tensor.shape) for (key, tensor), part in merges}}


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Raise InputError for an unknown rule, and for settings that it does not have."""
    known = list(inspect.signature(RULES.get(name)).parameters)[2:]
    for setting in settings:
        if setting not in known:
            allowed = nearest(setting, known) if known else "it has none"
            raise InputError(f"the merge rule {name} has no setting {setting!r}: {allowed}")


def checked_share(ratio: float) -> None:
    """Raise InputError for a share of coordinates that is none."""
    if not 0 < ratio <= 1:
        raise InputError(f"ratio {ratio} is no share of an adapter's numbers: give one above 0, and at most 1")


def merged_before(name: str, bank: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Replace every adapter k >= 2 by a merge of adapters 1 ... k-1 (all as they were finished).

    With the rule "mean" this is the state in which the published code of MOS leaves its stored stacks. What the last
    adapter does not hold is the first one's.
    """
    return [dict(own) if k == 0 else merged(name, bank[:k], only=bank[-1].keys()) for k, own in enumerate(bank)]


def _flat(adapter: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([adapter[name].flatten() for name in like])


def merge(stack: Mapping[str, Tensor], anchor: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return `(1 - alpha) * A + alpha * anchor`, tensor by tensor (MOS, equation 6)."""
    return {name: torch.lerp(tensor, anchor[name], alpha) for name, tensor in stack.items()}


def merge_(stack: Mapping[str, Tensor], anchor: Mapping[str, Tensor], alpha: float) -> None:
    """Write `merge(stack, anchor, alpha)` into the tensors of `stack`, in one fused call."""
    with torch.no_grad():
        torch._foreach_lerp_(list(stack.values()), [anchor[name] for name in stack], alpha)


def effective_alpha(alpha: float, merges: int) -> float:
    """Return the strength of `merges` merges in a row towards the same anchor.

    The published code merges once a block inside `forward`, and once more after the step: on a
    12-block ViT a nominal 0.1 is in effect `effective_alpha(0.1, 13)`.

    >>> round(effective_alpha(0.1, 13), 3)
    0.746
    """
    return 1 - (1 - alpha) ** merges
