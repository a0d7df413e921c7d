"""Every registered adapter, merge rule, loss term and selection rule keeps the laws of its kind."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from continual import adapters, losses, merging, selection
from continual.adapters.base import AdapterKind
from continual.adapters.bottleneck import Bottleneck
from continual.losses.base import Batch, LossTerm
from continual.losses.cross_entropy import CrossEntropy
from continual.testing import kinds

#: what a method hands to its terms
EXTRA: Mapping[str, Mapping[str, Tensor]] = {"prompt_pull": {"distance": torch.rand(6)}}


@pytest.mark.parametrize("name", adapters.KINDS.all())
def test_adapter_keeps_the_laws(name: str) -> None:
    kinds.check_adapter(adapters.KINDS.get(name)())


@pytest.mark.parametrize("name", merging.RULES.all())
def test_merge_rule_keeps_the_laws(name: str) -> None:
    kinds.check_merge_rule(name)


@pytest.mark.parametrize("name", losses.TERMS.all())
def test_loss_term_keeps_the_laws(name: str) -> None:
    kinds.check_loss_term(losses.TERMS.get(name), **EXTRA.get(name, {}))


@pytest.mark.parametrize("name", selection.RULES.all())
def test_selection_rule_keeps_the_laws(name: str) -> None:
    kinds.check_selection_rule(selection.RULES.get(name))


class Loud(Bottleneck):
    """A new one adds something."""

    def new(self, shapes, generator):  # type: ignore[no-untyped-def]
        return {name: tensor + 1 for name, tensor in super().new(shapes, generator).items()}


class Confused(Bottleneck):
    """Serves the first image's adapter to all."""

    def block(self, weights, h, keep=None):  # type: ignore[no-untyped-def]
        first = {
            name: tensor[:1].expand_as(tensor) if len(tensor) == len(h) else tensor for name, tensor in weights.items()
        }
        return super().block(first, h, keep)


@pytest.mark.parametrize(("broken", "said"), [(Loud(), "adds something"), (Confused(), "one at a time")])
def test_broken_adapters_are_found(broken: AdapterKind, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        kinds.check_adapter(broken)


def test_broken_rules_and_terms_are_found() -> None:
    class Constant(CrossEntropy):
        def __call__(self, batch: Batch) -> Tensor:
            return super().__call__(batch).detach().requires_grad_()

    broken: type[LossTerm] = Constant
    with pytest.raises(AssertionError, match="no gradient"):
        kinds.check_loss_term(broken)
    with pytest.raises(AssertionError, match="not the first"):
        kinds.check_selection_rule(lambda features, count, draw: torch.arange(9 - count, 9))
    merging.RULES._added["drifts"] = lambda stacks, start: stacks.mean(0) + 1
    try:
        with pytest.raises(AssertionError, match="merge elsewhere"):
            kinds.check_merge_rule("drifts")
    finally:
        del merging.RULES._added["drifts"]
