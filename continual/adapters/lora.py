"""LoRA on the attention of a ViT (Hu et al., ICLR 2022, arXiv 2106.09685): `W + s B A`."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from continual.adapters.attention_weights import LowRank


class LoRA(LowRank):
    """Adds a product of two low-rank factors to the weight. For ViT-B/16 and r = 8 they are 270,336 numbers."""

    name: ClassVar[str] = "lora"

    lr_scale: float = Field(0.2, gt=0, description="the adapter's rate as a share of the method's lr")

    def attention(self, weights: Mapping[str, Tensor], own: Tensor) -> Tensor:
        return own + self.change(weights["writing"] @ weights["reading"])
