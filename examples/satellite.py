# %% [markdown]
# # Aerial scenes over time
#
# New kinds of scenes come in batches, and no tile has an up. The first batch decides on the group, once; later ones
# keep it, also in the model file. Afterwards: which answers change when a tile is rotated? None.
#
#     python examples/satellite.py DIR WEIGHTS [IMAGES_PER_CLASS]
#
# DIR holds a folder per class; WEIGHTS is a file that `continual.load_backbone` reads, of a ViT.

# %%
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import continual

folder, weights = Path(sys.argv[1]), Path(sys.argv[2])
count = int(sys.argv[3]) if len(sys.argv) > 3 else 10
classes = sorted(place.name for place in folder.iterdir() if place.is_dir())
train = {name: sorted((folder / name).iterdir())[:count] for name in classes}
test = [(file, name) for name in classes for file in sorted((folder / name).iterdir())[count : count + 6]]

# %% [markdown]
# ## Learn batch after batch
#
# `views=3` of the eight views, in the order that content decides, are enough for most of what all eight gain.

# %%
backbone = continual.load_backbone(weights=weights, img_size=98)
learner = continual.StrataLearner(backbone, group="auto", views=3, precision="bfloat16")
for batch in (classes[: len(classes) // 2], classes[len(classes) // 2 :]):
    learner.learn([file for name in batch for file in train[name]], [name for name in batch for _ in train[name]])
    known = [(file, name) for file, name in test if name in learner.classes]
    answers = learner.predict([file for file, _ in known]).labels
    right = np.mean([answer == name for answer, (_, name) in zip(answers, known, strict=True)])
    print(f"{len(learner.classes)} classes, right {right:.1%}")
assert learner.state.choice is not None
print(learner.state.choice.words)
learner.save("scenes.safetensors")

# %% [markdown]
# ## The saved model answers alike in every position

# %%
again = continual.load("scenes.safetensors", backbone=backbone)
changed = 0
for file, _ in test:
    tile = np.asarray(Image.open(file).convert("RGB"))
    views = [np.rot90(side, k).copy() for side in (tile, tile[:, ::-1]) for k in range(4)]
    changed += len(set(again.predict(views).labels)) > 1
print(f"tiles whose answer depends on their position: {changed} of {len(test)}")
