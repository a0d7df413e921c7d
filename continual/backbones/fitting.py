"""A network's weights found in a state as people have it, and put into the network.

Training programs put names of their own before a network's (`module.`, `teacher.backbone.`), and keep heads beside it.
The prefix is found by comparing names, so that any is understood. What does not fit is refused, with names.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from continual.errors import BackboneError

#: what networks end in, while they are trained, that gives no features
HEADS = re.compile(
    r"(head|heads|head_dist|fc|classifier|last_linear|linear|logits|pre_logits|projector|projection|projection_head|"
    r"proj_head|predictor|prediction_head|contrastive_head|mlp_head|dino_head|ibot_head|loss|criterion|decoder\w*|"
    r"mask_token)(\.|$)"
)
#: where there are several networks of one kind, the one to take: the average of a training, which is better
PREFERRED = ("ema", "teacher", "momentum", "target")


@dataclass(frozen=True)
class Fit:
    """How a file's tensors went into a network."""

    taken: int  #: tensors of the network, all of which were in the file
    prefix: str = ""  #: what stood before their names
    left_out: tuple[str, ...] = ()  #: names in the file that are not the network's
    adapted: str | None = None  #: how the first convolution was adapted to the number of channels

    def __str__(self) -> str:
        text = f"all {self.taken} tensors of the network found"
        text += f" under {self.prefix!r}" if self.prefix else ""
        text += f", {self.adapted}" if self.adapted else ""
        return text + (f"; {len(self.left_out)} others left out, e.g. {self.left_out[0]}" if self.left_out else "")

    @property
    def remarkable(self) -> bool:
        """Whether it was more than a file of exactly this network."""
        return bool(self.prefix or self.left_out or self.adapted)


def fill(
    network: Any,
    state: Mapping[str, Tensor] | None,
    path: Path,
    name: str,
    convert: Callable[..., Mapping[str, Tensor]] | None = None,
) -> Fit:
    """Load a local state into a network; everything but heads must fit, or BackboneError is raised, with names.

    `convert(state, network)` knows the layouts in which such states are found; by default timm's own for the network.
    """
    layouts: Any = convert or getattr(
        sys.modules[type(network).__module__], "checkpoint_filter_fn", lambda state, _: state
    )
    own = network.state_dict()
    try:
        if state is None:
            network.load_pretrained(str(path))
            return Fit(len(own))
        prefix = _prefix(state, own)
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        found = {k: v.float() if v.is_floating_point() else v for k, v in layouts(inner, network).items()}
        adapted = _adapt_channels(network, found, own)
    except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError, IndexError, TypeError) as error:
        raise BackboneError(f"{path} does not fit {name!r}: {type(error).__name__} {error}") from error
    kept = {k: v for k, v in found.items() if k in own or not HEADS.match(k)}
    if strange := [key for key in kept if kept[key].is_complex()]:
        raise BackboneError(f"{path} holds complex numbers, of which no network is made: {listed(strange)}")
    if problems := mismatches(own, kept):
        matched = sum(key in kept and kept[key].shape == tensor.shape for key, tensor in own.items())
        raise BackboneError(
            f"{path} does not fit {name!r}, of whose {len(own)} tensors it has {matched}: {listed(problems)}. "
            f"Check the model's name, and give model arguments such as img_size or depth if it differs"
        )
    network.load_state_dict(kept)
    others = (key for key in state if not key.startswith(prefix))
    return Fit(len(own), prefix, (*(prefix + k for k in found if k not in kept), *others), adapted)


def mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that a network lacks in a state, that it does not know, and that have another shape."""
    problems = [f"{k} is missing" for k in own if k not in state]
    problems += [f"{k} is not part of the model" for k in state if k not in own]
    problems += [
        f"{k} is {tuple(state[k].shape)} in the file but {tuple(own[k].shape)} in the model"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    return problems


def listed(problems: list[str]) -> str:
    """Join the first problems, and say how many more there are."""
    return "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")


def _prefix(state: Iterable[str], own: Iterable[str]) -> str:
    """Return what stands before most of a network's own names: "" unless another fits better.

    >>> _prefix(["student.backbone.a", "teacher.backbone.a", "teacher.backbone.b", "teacher.head.a"], ["a", "b"])
    'teacher.backbone.'
    """
    names, counts = set(own), Counter({"": 0})
    for key in state:
        parts = key.split(".")
        for cut in range(min(len(parts), 6)):
            if ".".join(parts[cut:]) in names:
                counts[".".join(parts[:cut]) + "." * bool(cut)] += 1

    def rank(prefix: str) -> tuple[int, bool, int]:
        return counts[prefix], any(word in prefix for word in PREFERRED), -len(prefix)

    return max(counts, key=rank)


def _adapt_channels(network: nn.Module, state: dict[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Fit the first convolution's weights, made for RGB, to the network's number of channels, as timm does.

    One channel gets the sum of the three; more repeat them, scaled by 3 / C. Returns what was done.
    """
    first = (getattr(network, "pretrained_cfg", None) or {}).get("first_conv") or ()
    done = None
    for name in (first,) if isinstance(first, str) else first:
        key = f"{name}.weight"
        if key not in own or key not in state or own[key].ndim != 4 or state[key].ndim != 4:
            continue
        before, now = state[key].shape[1], own[key].shape[1]
        if before != now and before % 3 == 0 and state[key].shape[0] == own[key].shape[0]:
            state[key] = adapt_input_conv(now * 3 // before, state[key])
            done = f"{name} adapted from {before} to {now} channels"
    return done
