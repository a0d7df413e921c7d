"""The pull of L2P (CVPR 2022, arXiv 2112.08654, equation 5): chosen keys move towards the images that chose them."""

from typing import ClassVar

from torch import Tensor

from continual.errors import InputError
from continual.losses.base import Batch, LossTerm


class PromptPull(LossTerm):
    """The mean over images of the summed distances, 1 - cosine, to the keys they chose."""

    name: ClassVar[str] = "prompt_pull"

    def __call__(self, batch: Batch) -> Tensor:
        if "distance" not in batch.extra:
            raise InputError("prompt_pull is a loss of methods that choose prompts: use it with l2p")
        return batch.extra["distance"].mean()
