"""HUT: a Hadamard product of the weight with two low-rank factors (Deng et al. 2024): `W o (1 + s B A)`.

Started at W, it is the update of HiRA (ICLR 2025), of which peft has an implementation. An entry of W that is small
changes little, so that it learns at a larger rate than LoRA.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from continual.adapters.attention_weights import LowRank


class HUT(LowRank):
    """Multiplies the weight, entry by entry, with one plus a product of two factors: as many numbers as LoRA."""

    name: ClassVar[str] = "hut"

    lr_scale: float = Field(24.0, gt=0, description="the adapter's rate as a share of the method's lr")

    def attention(self, weights: Mapping[str, Tensor], own: Tensor) -> Tensor:
        return own * (1 + self.change(weights["writing"] @ weights["reading"]))
