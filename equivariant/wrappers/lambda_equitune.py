"""λ-equitune: a mean over the orbit with learned weights.

Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023, arXiv 2305.09900).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.outputs import Extra, seen
from equivariant.parts.following import output_width
from equivariant.parts.networks import FeatureScore
from equivariant.ties import soft, widened
from equivariant.wrappers.base import Network, WeightedWrapper

Reads = Literal["features", "input"]
Positive = Literal["exp", "softplus", "none"]


class LambdaEquitune(WeightedWrapper):
    """f(x) = Σ_g λ(g·x) g⁻¹∘M(g·x) / Σ_g λ(g·x), with λ > 0 from one small network, the same for all g.

    - `head`: with it, `model` gives features, λ reads them and M = head∘model: one backbone pass per view. Without it,
      λ reads what `model` returns. (To average features instead of scores, put the head outside:
      `nn.Sequential(LambdaEquitune(features, "C4"), head)`.)
    - `network`: λ's network, (n, …) → (n,) or (n, 1). By default `FeatureScore`, which starts as λ ≡ 1, so that the
      wrapper starts as equitune, and reads the first of several outputs; `width` is its number of features, if it
      cannot be found: by the head, or by what the model returns for a tensor without values.
    - `reads`: "features", or "input" for a network of your own that looks at g·x itself (`ImageScore`).
    - `positive`: λ = exp(network) ("exp": a softmax over the orbit), softplus(network), or the network itself ("none":
      it must return finite numbers ≥ 0, not all 0 over an orbit; InputError otherwise).

    Other options as for `OrbitWrapper`. Gradients flow through λ into whatever it reads; freeze the backbone's
    parameters to train λ alone.
    """

    name = "lambda"

    def __init__(
        self,
        model: nn.Module,
        group: FiniteGroup | str,
        *,
        head: nn.Module | None = None,
        network: nn.Module | None = None,
        reads: Reads = "features",
        positive: Positive = "exp",
        width: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, group, **options)
        if reads not in get_args(Reads) or positive not in get_args(Positive):
            allowed = f"reads is one of {get_args(Reads)}, positive one of {get_args(Positive)}"
            raise InputError(f"reads={reads!r}, positive={positive!r} is not allowed: {allowed}")
        if network is None and reads == "input":
            raise InputError("reads='input' needs a network for images: give network=ImageScore(channels), say")
        self.head = nn.Identity() if head is None else head
        self.network = self.like_model(FeatureScore(self._width(width))) if network is None else network
        self.reads, self.positive = reads, positive
        self.through_model = reads == "features"

    @classmethod
    def around(
        cls,
        network: Network,
        group: FiniteGroup,
        chunk: int | None = None,
        *,
        positive: Annotated[Literal["exp", "softplus"], "how the weights become positive"] = "exp",
    ) -> nn.Module:
        """Return the classifier, with λ as it starts; a linear head says best how many features there are."""
        known = getattr(network.head, "in_features", None) or output_width(network.bare)
        width = known or getattr(network.bare, "num_features", None)
        return cls(network.features, group, head=network.head, positive=positive, width=width, chunk=chunk)

    def _width(self, width: int | None) -> int:
        found = width or getattr(self.head, "in_features", None) or output_width(self.model)
        if found is None:
            linear = next((m.in_features for m in self.head.modules() if isinstance(m, nn.Linear)), None)
            found = linear or getattr(self.model, "num_features", None)
        if not isinstance(found, int):
            raise InputError("cannot tell how many features λ reads: give width=, or a network= of your own")
        return found

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the weighted mean for `x` (B, …), and λ(g·x) / Σ_h λ(h·x), (|G|, B)."""
        views = self.views(x, self._view, "the λ network", Extra(args, kwargs))
        assert views.scores is not None
        weights = self._normalised(views.scores)
        return views.combine(weights), weights

    def orbit_scores(self, x: Tensor) -> Tensor:
        """Return what λ's network says of every view, (|G|, B)."""
        scores = self.views(x, self._view, "the λ network").scores
        assert scores is not None
        return scores

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of λ."""
        return list(self.network.parameters())

    def _view(self, images: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        features = self.model(images, *args, **kwargs)
        return self.head(features), self.network(images if self.reads == "input" else features)

    def _normalised(self, scores: Tensor) -> Tensor:
        if self.positive == "exp":
            return soft(scores)
        scores = widened(scores)
        if self.positive == "softplus":
            scores = functional.softplus(scores)
        elif self._looks():
            self._check_weights(scores)
        return scores / scores.sum(0)

    def _check_weights(self, weights: Tensor) -> None:
        if seen(weights < 0):
            g, image = (weights < 0).nonzero()[0].tolist()
            raise InputError(
                f"the λ network returned the negative weight {weights[g, image].item():.3g} for element "
                f"{self.group.names[g]} and image {image}: end it with a softplus, or use positive='exp'"
            )
        if seen(weights.sum(0) == 0):
            image = int((weights.sum(0) == 0).nonzero()[0])
            raise InputError(f"the λ network returned weight 0 for every element of image {image}: there is no mean")
