"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): LoRA whose ranks go where they matter most.

In training every block has more triplets than it will keep,

    W + s P diag(E) Q,    E = 0 at first,

and a penalty holds P and Q near orthogonal. How much an entry matters is |w dL/dw|, smoothed, times how uncertain that
is; a triplet k matters as E_k does, plus the mean of P_k's entries and of Q_k's. The budget of all blocks together
falls with the third power from the initial to the final one, and E of all triplets outside it is set to 0. What is left
is kept as a LoRA of ragged ranks; it trains on without a budget.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from continual.adapters.attention_weights import LowRank
from continual.adapters.base import Shapes

BETA = 0.85  #: of both moving averages
WARMUP, REST = 0.15, 0.3  #: shares of the steps before the budget falls, and after
INTERVAL = 10  #: steps between two reductions


class AdaLoRA(LowRank):
    """Low-rank products of `rank` in the mean over the blocks, chosen among `initial` in each.

    Weights in training are `lora_A` (L - 1, i, D), `lora_B` (L - 1, K, i) and `lora_E` (L - 1, i, 1), which are Q, P
    and E. Of a finished adapter, with R = r (L - 1), they are `reading` (R, D), `writing` (R, K) and `place`
    (L - 1, R), which says whose a row is. Ranks are chosen when an adapter is trained from its beginning, and stay.
    """

    name: ClassVar[str] = "adalora"
    whole: ClassVar[frozenset[str]] = frozenset({"reading", "writing"})

    lr_scale: float = Field(6.0, gt=0, description="the adapter's rate as a share of the method's lr")
    lr_scale_later: float = Field(0.2, gt=0, description="the same once ranks are chosen: what is left is a LoRA")
    initial: int = Field(12, ge=1, description="triplets of each block at first; at least rank")
    orthogonality: float = Field(0.1, ge=0, description="weight of the penalty that holds the factors orthogonal")

    @model_validator(mode="after")
    def _falls(self) -> "AdaLoRA":
        if self.initial < self.rank:
            raise ValueError(
                f"initial = {self.initial} triplets cannot become rank = {self.rank}: take at least as many"
            )
        return self

    @property
    def reading(self) -> frozenset[str]:
        return frozenset({"reading", "place"}) if self.share_reading else frozenset()

    def rate(self, weights: Mapping[str, Tensor]) -> float:
        return self.lr_scale if "lora_E" in weights else self.lr_scale_later

    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        self.check(shapes)
        blocks = shapes.depth - 1
        return {
            "lora_A": 0.02 * torch.randn(blocks, self.initial, shapes.width, generator=generator),
            "lora_B": 0.02 * torch.randn(blocks, self.rows(shapes), self.initial, generator=generator),
            "lora_E": torch.zeros(blocks, self.initial, 1),
        }

    def finished(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "lora_E" not in weights:
            return dict(weights)
        values, blocks = weights["lora_E"].flatten(1), len(weights["lora_E"])
        kept = values.abs().flatten().argsort(descending=True, stable=True)[: self.rank * blocks].sort().values
        block, triplet = kept // self.initial, kept % self.initial
        return {
            "reading": weights["lora_A"][block, triplet],
            "writing": weights["lora_B"].mT[block, triplet] * values[block, triplet, None],
            "place": block == torch.arange(blocks, device=block.device)[:, None],
        }

    def attention(self, weights: Mapping[str, Tensor], own: Tensor) -> Tensor:
        if "lora_E" in weights:
            return own + self.change(weights["lora_B"] @ (weights["lora_E"] * weights["lora_A"]))
        rows = weights["writing"] * weights["place"].unsqueeze(-1)
        return own + self.change(rows.mT @ weights["reading"])

    def regulation(self, weights: Mapping[str, Tensor], steps: int) -> "RankAllocation | None":
        return RankAllocation(weights, self.rank, self.orthogonality, steps) if "lora_E" in weights else None


class RankAllocation:
    """The budget of an adapter in training: what matters, and what is set to 0.

    It does to `lora_A`, `lora_B` and `lora_E` (parameters) what peft's `RankAllocator` does to those of a network.
    """

    def __init__(self, weights: Mapping[str, Tensor], rank: int, orthogonality: float, steps: int) -> None:
        self.weights, self.orthogonality = weights, orthogonality
        self.first, self.last = weights["lora_E"].numel(), rank * len(weights["lora_E"])
        self.steps, self.warmup, self.rest = steps, int(WARMUP * steps), max(1, int(REST * steps))
        #: what a checkpoint keeps: steps done, and the moving averages of importance and of its uncertainty
        self.live: dict[str, Tensor] = {"step": torch.zeros((), dtype=torch.int64)}
        for name, tensor in weights.items():
            self.live |= {
                f"{name} importance": torch.zeros_like(tensor),
                f"{name} uncertainty": torch.zeros_like(tensor),
            }

    def budget(self, step: int) -> tuple[int, bool]:
        """Return how many triplets there may be after a step (from 1), and whether they are reduced to that now."""
        if step <= self.warmup:
            return self.first, False
        if step > self.steps - self.rest:
            return self.last, True
        left = 1 - (step - self.warmup) / (self.steps - self.rest - self.warmup)
        return int((self.first - self.last) * left**3 + self.last), step % INTERVAL == 0

    def penalty(self) -> Tensor:
        """Return how far the factors are from orthogonal, times its weight."""
        reading, writing = self.weights["lora_A"], self.weights["lora_B"]
        unit = torch.eye(reading.shape[1]).to(reading)
        apart = torch.stack([gram - unit for gram in (reading @ reading.mT, writing.mT @ writing)])
        return self.orthogonality * torch.linalg.matrix_norm(apart).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Note the newest gradients, and set to 0 what the budget leaves out."""
        self.live["step"] += 1
        step = int(self.live["step"])
        if step < self.steps - self.rest:
            for name, tensor in self.weights.items():
                if tensor.grad is None:
                    continue
                mean, apart = self.live[f"{name} importance"], self.live[f"{name} uncertainty"]
                now = (tensor * tensor.grad).abs()
                mean.mul_(BETA).add_((1 - BETA) * now)
                apart.mul_(BETA).add_((1 - BETA) * (now - mean).abs())
        count, now_reduced = self.budget(step)
        if now_reduced and count < self.first:
            scores = self.scores()
            least = scores.flatten().kthvalue(self.first - count).values
            if scores.any():  # too short a training never saw a gradient
                self.weights["lora_E"].masked_fill_((scores <= least)[..., None], 0)

    def scores(self) -> Tensor:
        """Return how much each triplet matters, (L - 1, i)."""
        own = {name: self.live[f"{name} importance"] * self.live[f"{name} uncertainty"] for name in self.weights}
        return own["lora_E"].squeeze(-1) + own["lora_A"].mean(2) + own["lora_B"].mean(1)
