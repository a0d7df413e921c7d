"""What closed forms cost with and without kept features: the same cells of `configs/all_methods.toml`, both ways.

    OMP_NUM_THREADS=1 python benchmarks/feature_store.py --weights weights.safetensors --images tiny_imagenet_100

The store is empty at the beginning. Processor seconds of the whole run, with reading images and reports.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import arguments
from measuring import table

from continual.experiments.config import load_runs
from continual.experiments.run import run_config
from continual.learning.feature_store import FeatureStore
from continual.metrics.accuracy import average

#: methods of the config that train nothing, and two more
METHODS = ["simple_cil", "ridge", "strata", "ranpac, no adapter", "strata, unbalanced"]
MORE = [
    "methods.'ranpac, no adapter'={method='ranpac', epochs=0, projection=2000}",
    "methods.'strata, unbalanced'={method='strata', balance=0}",
]


def main() -> None:
    """Print the table."""
    parser = arguments.parser(__doc__, "weights", "images", "seeds", pixels={"default": 70})
    given = parser.parse_args()
    changes = [
        f"backbone.weights={given.weights}",
        f"sweep.tiny_imagenet.data.source={given.images}",
        f"seeds={given.seeds}",
        f"backbone.args.img_size={given.pixels}",
    ]
    config = load_runs(Path(__file__).parents[1] / "configs" / "all_methods.toml", [*changes, *MORE])["tiny_imagenet"]
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "computed every time": None,
            "kept": FeatureStore(folder),
            "kept by an earlier run": FeatureStore(folder),
        }
        for name, store in sides.items():
            start = time.process_time()
            cells = run_config(config, only=METHODS, store=store)
            spent = time.process_time() - start
            found[name] = [average(cell) for cell in cells]
            rows.append([name, f"{spent:.0f}", f"{spent / float(rows[0][1]) if rows else 1:.2f}"])
            print(rows[-1], flush=True)
    print(table(["features", "processor seconds", "ratio"], rows))
    first, *others = found.values()
    print(f"{len(cells)} cells; the same accuracies in all: {all(each == first for each in others)}")


if __name__ == "__main__":
    main()
