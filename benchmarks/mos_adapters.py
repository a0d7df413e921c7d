"""Images that each want their own adapter: one batched product of gathered weights, or a product per group of images.

    OMP_NUM_THREADS=1 python benchmarks/mos_adapters.py --out DIR

Times the adapters of all blocks alone, on random tokens, for batches whose images want 1, 2, 4, ... different adapters.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
import typer
from arguments import Out
from measuring import interleaved, surroundings, table, write
from torch import Tensor

from continual.adapters.bank import grouped, per_image, stacked
from continual.adapters.base import Shapes
from continual.adapters.bottleneck import Bottleneck


def main(
    out: Out,
    depth: int = 11,
    width: int = 384,
    bottleneck: int = 16,
    tokens: int = 50,
    rounds: int = 7,
    threads: int = 1,
) -> None:
    """Measure, and write mos_adapters.json and mos_adapters.md."""
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(0)
    kind = Bottleneck(bottleneck=bottleneck)
    stacks = [kind.new(Shapes(depth, width), draw) for _ in range(64)]
    bank = stacked(stacks)
    rows: list[dict[str, Any]] = []
    for batch in (8, 32, 128):
        h = torch.randn(batch, tokens, width, generator=draw)
        for distinct in (n for n in (1, 2, 4, 8, 16, 32, 64) if n <= batch):
            chosen = torch.arange(batch) % distinct

            def gather(chosen: Tensor = chosen, h: Tensor = h) -> None:
                adapters = per_image(kind, bank, chosen)
                for block in range(depth):
                    adapters(block, h)

            def group(chosen: Tensor = chosen, h: Tensor = h) -> None:
                order = chosen.argsort(stable=True)
                adapters, ordered = grouped(kind, bank, chosen[order]), h[order]
                for block in range(depth):
                    adapters(block, ordered)

            with torch.no_grad():
                taken = interleaved({"gathered": gather, "grouped": group}, rounds)
            rows.append({"batch": batch, "stacks": distinct, **{k: statistics.median(v) for k, v in taken.items()}})
    lines = [
        [str(r["batch"]), str(r["stacks"]), f"{1e3 * r['gathered']:.1f}", f"{1e3 * r['grouped']:.1f}",
         f"{r['grouped'] / r['gathered']:.2f}"]
        for r in rows
    ]  # fmt: skip
    text = table(["batch", "different stacks", "gathered [ms]", "grouped [ms]", "grouped / gathered"], lines)
    write(out, "mos_adapters", {"ran on": surroundings(), "rows": rows}, text)


if __name__ == "__main__":
    typer.run(main)
