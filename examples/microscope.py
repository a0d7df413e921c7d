# %% [markdown]
# # A microscopist with few labels
#
# Plankton drifts past a camera and lies any way round. Five labelled images of each kind are there, and a folder of
# others to sort. `group="auto"` asks the labelled images whether they have an up; if not, an image gets the same answer
# in all eight positions, and the few labels go further.
#
#     python examples/microscope.py DIR WEIGHTS [IMAGES_PER_CLASS]
#
# DIR holds a folder per class; WEIGHTS is a file that `continual.load_backbone` reads, of a ViT.

# %%
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import continual

folder, weights = Path(sys.argv[1]), Path(sys.argv[2])
count = int(sys.argv[3]) if len(sys.argv) > 3 else 5
classes = sorted(place.name for place in folder.iterdir() if place.is_dir())
draw = np.random.default_rng(0)
labelled, others = [], []
for name in classes:
    files = sorted((folder / name).iterdir())
    files = [files[i] for i in draw.permutation(len(files))]
    labelled += [(file, name) for file in files[:count]]
    others += [(file, name) for file in files[count : count + 8]]
backbone = continual.load_backbone(weights=weights, img_size=98)

# %% [markdown]
# ## With and without a group
#
# Images that are asked about come as they are, and rotated by a quarter turn. A group costs passes of the network:
# `symmetry="equitune"` looks at all eight views.


# %%
def rotated(file: Path) -> np.ndarray:
    """Return an image by a quarter turn, in whole numbers (H, W, 3)."""
    return np.rot90(np.asarray(Image.open(file).convert("RGB"))).copy()


for name, options in {"plain": {}, "auto": {"group": "auto", "symmetry": "equitune"}}.items():
    learner = continual.StrataLearner(backbone, precision="bfloat16", **options)
    learner.learn([file for file, _ in labelled], [label for _, label in labelled])
    if learner.state.choice is not None:
        print(learner.state.choice.words)
    upright = list(learner.predict([file for file, _ in others]).labels)
    turned = list(learner.predict([rotated(file) for file, _ in others]).labels)
    right = np.mean([answer == label for answer, (_, label) in zip(upright, others, strict=True)])
    same = np.mean([one == other for one, other in zip(upright, turned, strict=True)])
    print(f"{name:6} right {right:.1%}  same answer when rotated {same:.1%}")
