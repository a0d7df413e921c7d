"""What all wrappers share: run a model over the orbit of a batch, and put the answers together."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from equivariant.actions import Action, Images
from equivariant.errors import GroupError, InputError, first_of
from equivariant.groups import FiniteGroup, as_group
from equivariant.orbits import align, chunks, orbit
from equivariant.outputs import (
    NOTHING,
    Extra,
    Representation,
    actions,
    check_batch,
    check_length,
    leaves,
    rebuild,
    seen,
    skeleton,
)
from equivariant.parts.following import like_model

#: images (n, C, H, W), and what else the model takes -> its output for them, and a score (n,) or None
View = Callable[..., tuple[Any, Tensor | None]]


@dataclass(frozen=True)
class Views:
    """A model's answers over an orbit: each tensor (|G|, B, …), aligned, so that they can be averaged."""

    containers: Any  #: what the model returned, without its tensors
    tensors: list[Tensor]  #: entry g is g⁻¹∘M(g·x)
    scores: Tensor | None = None  #: (|G|, B)

    def combine(self, weights: Tensor) -> Any:
        """Return Σ_g weights[g] · g⁻¹∘M(g·x) for weights (|G|, B), shaped like the model's output."""
        return self.map(lambda tensor: weighted_sum(weights, tensor))

    def map(self, function: Callable[[Tensor], Tensor]) -> Any:
        """Apply a function to every tensor (|G|, B, …), and return them shaped like the model's output."""
        return rebuild(self.containers, iter([function(tensor) for tensor in self.tensors]))


def weighted_sum(weights: Tensor, tensor: Tensor) -> Tensor:
    """Return Σ_g w[g]·t[g] of (G, B) and (G, B, …), in at least float32; weight 0 drops even an infinity."""
    if not tensor.is_floating_point():
        raise InputError(f"answers of {tensor.dtype} cannot be averaged: return scores, not labels")
    wide = torch.promote_types(tensor.dtype, torch.float32)
    total = torch.zeros_like(tensor[0], dtype=wide)
    for w, t in zip(weights.to(wide), tensor, strict=True):
        w = w.reshape(-1, *[1] * (t.ndim - 1))
        total = total + w * t.masked_fill((w == 0) & t.isinf(), 0)
    return total.to(tensor.dtype)


@dataclass(frozen=True)
class Network:
    """A classifier head∘features in its parts, which are not copied."""

    features: nn.Module  #: images (n, C, H, W), or what is remembered of them, → (n, D)
    head: nn.Module  #: (n, D) → (n, K)
    bare: nn.Module  #: the network that gives the features, of images alone

    @property
    def whole(self) -> nn.Module:
        """The classifier as one module."""
        return nn.Sequential(self.features, self.head)


class OrbitWrapper(nn.Module, ABC):
    """A model made equivariant to a finite group: f(g·x) = g∘f(x).

    - `model`: any module; it is not copied. Its first argument is a batch, images (B, C, H, W) by default. Others are
      passed on: tensors (B, …) with their images, the rest as it is. What the wrapper adds starts with the model's
      dtype, device and training mode.
    - `group`: a `FiniteGroup` or a name such as "C4" or "D4".
    - `input`: how the group acts on the input, `Images()` by default.
    - `output`: how it acts on the output: `Trivial()` for class scores and features that shall be invariant, `Maps()`,
      `Tokens()`, …, or a dict or tuple of such, shaped like the output. By default shapes decide, tensor by tensor:
      (B, K) is invariant, (B, K, h, w) of the image's proportions a map, with a warning that says so. What the model
      returns its tensors in (dicts, named tuples, dataclasses) comes back as it is.
    - `chunk`: how many elements go through the model at once; None for all. Small bounds the memory.
    - `checkpoint`: when training, keep only each chunk's input and compute the rest again in the backward pass. (Batch
      norm in training mode then updates its running statistics twice.)
    - `check`: look for NaN in the input and in every answer. Compiled and exported code does not look.

    With exact actions (right angles, mirrors, channels) equivariance is exact, up to rounding, for any model and
    weights without randomness. In training mode that excludes dropout; batch norm keeps it as long as the orbit is in
    one chunk. Raises InputError and GroupError for bad options; `forward` raises InputError for bad input, before the
    model has run.

    A subclass in a file of this folder, or at an entry point of the group `equimos.wrappers`, that has a `name` of its
    own is found by it in configs and commands; the keyword-only parameters of its `around` are its options there.
    """

    name: ClassVar[str]
    #: whether it looks at images through its model alone, so that it can work on remembered features of every view
    through_model: bool = False

    def __init__(
        self,
        model: nn.Module,
        group: FiniteGroup | str,
        *,
        input: Action | None = None,
        output: Representation | None = None,
        chunk: int | None = None,
        checkpoint: bool = False,
        check: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        if chunk is not None and not (isinstance(chunk, int) and chunk >= 1):
            raise InputError(f"chunk={chunk!r} must be None or a number of elements, at least 1")
        self.model = model
        self.group = as_group(group)
        self.input: Action = input or Images()
        self.output = output
        self.chunk, self.checkpoint, self.check = chunk, checkpoint, check
        if not isinstance(self.input, Action):
            raise InputError(f"input={input!r} must be an action: Images(), Maps(), Tokens(), …")
        actions(self.output)
        self.training = model.training

    @classmethod
    def around(cls, network: Network, group: FiniteGroup, chunk: int | None = None) -> nn.Module:
        """Return a classifier made equivariant, as configs and commands want it.

        A wrapper with options overrides this with keyword-only parameters, each with a default and annotated with its
        type and its meaning: `keep: Annotated[int, "views that are finished"] = 1`.
        """
        return cls(network.whole, group, chunk=chunk)

    @abstractmethod
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the equivariant answer for a batch `x` (B, …); what follows is passed on to the model."""

    def views(self, x: Tensor, view: View | None = None, scorer: str = "the score", extra: Extra = NOTHING) -> Views:
        """Run `view` (by default the model) over the orbit of `x` (B, …), chunk by chunk; `scorer` is for errors."""
        self.check_input(x, extra)
        view = view or (lambda *args, **kwargs: (self.model(*args, **kwargs), None))
        tensors: list[list[Tensor]] = []
        scores: list[Tensor] = []
        containers, batch = None, x.shape[0]
        for elements in chunks(self.group.order, self.chunk):
            images = orbit(self.group, x, self.input, elements).flatten(0, 1)
            output, score = self.call(view, images, extra.repeated(len(elements)))
            aligned = []
            for action, tensor in leaves(self.output, output, x):
                check_length(tensor, images.shape[0])
                tensor = tensor.unflatten(0, (len(elements), batch))
                self.check_answer(tensor, elements)
                aligned.append(align(self.group, tensor, action, elements))
            tensors.append(aligned)
            containers = skeleton(output)
            if score is not None:
                scores.append(self.check_scores(score, elements, batch, scorer))
        joined = [torch.cat(parts) for parts in zip(*tensors, strict=True)]
        return Views(containers, joined, torch.cat(scores) if scores else None)

    def call(self, function: Callable[..., Any], x: Tensor, extra: Extra = NOTHING) -> Any:
        """Call `function(x, …)`, with checkpointing if it was asked for and gradients are wanted.

        Raises InputError where it fails on an `x` of another dtype than the weights.
        """
        try:
            if self.checkpoint and torch.is_grad_enabled():
                return checkpoint(function, x, *extra.args, use_reentrant=False, **extra.kwargs)
            return function(x, *extra.args, **extra.kwargs)
        except RuntimeError as error:
            # Not refused beforehand, because some models convert their input themselves.
            weights = {p.dtype for p in self.parameters() if p.is_floating_point()}
            if not weights or x.dtype in weights or isinstance(error, torch.OutOfMemoryError):
                raise
            known, said = ", ".join(sorted(map(str, weights))), str(error).partition("\n")[0]
            raise InputError(
                f"the model's weights are {known}, and it failed on images of {x.dtype}: convert one to the other, "
                f"images.to(...) or model.to({x.dtype}) (it said: {said})"
            ) from error

    def like_model(self, module: nn.Module) -> nn.Module:
        """Return a new part of the wrapper with the model's dtype, device and training mode."""
        return like_model(self.model, module)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that decide how much each element counts; none, unless a method learns them."""
        return []

    # Checks --------------------------------------------------------------------------------------------

    def check_input(self, x: Tensor, extra: Extra = NOTHING) -> None:
        """Raise InputError if `x` is no batch that the group can act on, or holds NaN (naming the images)."""
        check_batch(x)
        self.input.check(self.group, x)
        extra.check(x.shape[0])
        if self._looks() and seen(x.isnan()):
            images = x.flatten(1).isnan().any(1).nonzero().flatten().tolist()
            raise InputError(f"the input holds NaN in image {', '.join(map(str, images))} of the batch")

    def check_answer(self, answers: Tensor, elements: list[int]) -> None:
        """Raise InputError if answers (len(elements), B, …) hold NaN, naming the elements."""
        if self._looks() and seen(answers.isnan()):
            broken = answers.flatten(1).isnan().any(1).nonzero().flatten().tolist()
            names = ", ".join(self.group.names[elements[i]] for i in broken)
            raise InputError(f"the model returned NaN for element {names} of {self.group.name}, but its input had none")

    def check_scores(self, scores: Tensor, elements: list[int], batch: int, what: str) -> Tensor:
        """Return scores of views as (len(elements), B); raises InputError for another shape or a number not finite."""
        count = len(elements) * batch
        if not isinstance(scores, Tensor) or tuple(scores.shape) not in ((count,), (count, 1)):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                f"{what} must return one number for each of {count} images, ({count},), but returned {got}"
            )
        scores = scores.reshape(len(elements), batch)
        if self._looks() and seen(~scores.isfinite()):
            i, image = (~scores.isfinite()).nonzero()[0].tolist()
            place = f"element {self.group.names[elements[i]]} and image {image}"
            raise InputError(f"{what} returned {scores[i, image].item()} for {place}: it must be finite")
        return scores

    def _looks(self) -> bool:
        return self.check and not torch.compiler.is_compiling()

    # The group travels with the weights ----------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """Return the group's name and fingerprint as bytes, uint8, so that any tensor format can hold them."""
        text = json.dumps({"group": self.group.name, "sha256": self.group.fingerprint})
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Refuse, with GroupError, the weights of a wrapper of another group; torch calls this before they load.

        It loads module by module, though: what stands before the wrapper in a larger model has been loaded by then.
        """
        try:
            saved = json.loads(bytes(state.tolist()))
            name, fingerprint = saved["group"], saved["sha256"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GroupError(
                "these weights do not say which group they are for, their note of it cannot be read: save them again "
                "with state_dict() of the wrapper; nothing of this wrapper was loaded"
            ) from error
        if fingerprint != self.group.fingerprint:
            raise GroupError(
                f"these weights were saved for the group {name}, but this wrapper's is {self.group.name}: make the "
                f"wrapper with {name!r}; nothing of this wrapper was loaded"
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; raises GroupError, with a name or two, where it would list all that differ."""
        own, given = self.state_dict().keys(), dict(state_dict or {}).keys()
        if strict and own != given:
            raise GroupError(f"these weights {self._difference(own, given)}; nothing of this wrapper was loaded")
        return super().load_state_dict(state_dict, strict, assign)

    def _difference(self, own: Set[str], given: Set[str]) -> str:
        kind, missing, more = type(self).__name__, sorted(own - given), sorted(given - own)
        if given == self.model.state_dict().keys():
            return f"are those of the bare model: load them into the `model` of this {kind}"
        lacks = f"lack {first_of(missing)}" if missing else ""
        holds = f"hold {first_of(more)} that it has not" if more else ""
        return f"are not those of this {kind}, they {', and '.join(filter(None, (lacks, holds)))}"

    def extra_repr(self) -> str:
        """Say the group and the actions."""
        output = "by shape" if self.output is None else self.output
        return f"group={self.group.name}, input={self.input}, output={output}, chunk={self.chunk}"


class WeightedWrapper(OrbitWrapper):
    """A wrapper whose answer is Σ_g w_g(x) g⁻¹∘M(g·x), with weights that sum to 1."""

    @abstractmethod
    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the answer for `x` (B, …) and the weights w (|G|, B) behind it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the answer for `x` (B, …); what follows is passed on to the model."""
        return self.answer(x, *args, **kwargs)[0]

    def orbit_weights(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the weights w (|G|, B) behind the answer for `x` (B, …)."""
        return self.answer(x, *args, **kwargs)[1]

    def orbit_scores(self, x: Tensor) -> Tensor:
        """Return the scores (|G|, B) behind the weights; raises InputError where no network gives any."""
        raise InputError(f"{type(self).__name__} has no network that scores views: use LambdaEquitune, say")
