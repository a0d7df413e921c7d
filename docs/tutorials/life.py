# %% [markdown]
# # A model's life in small
#
# One model learns, says what it does not know, explains an answer, is corrected, forgets, goes to a small device and
# learns there, and is merged with the model of a second site.
#
# This page needs no download: it draws its photos, and its backbone is a tiny ViT with random weights, which sees
# little more than colours. [A model's life](../life.md) has the commands, and figures on real images.

# %%
import numpy as np
import timm
import torch
from IPython.display import display
from PIL import Image, ImageDraw

import continual
from continual.export.onnx_learner import Learner

random = np.random.default_rng(0)
COLOURS = {"bolt": "slategray", "ring": "goldenrod", "nut": "sienna", "shim": "seagreen", "pin": "hotpink"}


def photo(part: str) -> Image.Image:
    """Draw a part that lies somewhere on a table."""
    image = Image.fromarray(random.normal(200, 15, (64, 64, 3)).clip(0, 255).astype(np.uint8))
    x, y, radius, angle = random.integers([24, 24, 13, 0], [40, 40, 20, 60]).tolist()
    ImageDraw.Draw(image).regular_polygon((x, y, radius), 6, angle, COLOURS[part], "black")
    return image


def photos(*parts: str, count: int = 15) -> tuple[list[Image.Image], list[str]]:
    """Draw photos of some parts; return images and labels."""
    return [photo(part) for part in parts for _ in range(count)], [part for part in parts for _ in range(count)]


torch.manual_seed(0)
shape = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 4}
vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape)
backbone = continual.assemble(vit, "vit_tiny_patch16_224", shape)

shown = Image.new("RGB", (5 * 68, 64), "white")
for place, part in enumerate(COLOURS):
    shown.paste(photo(part), (68 * place, 0))
display(shown)

# %% [markdown]
# ## Learn
#
# Two experiences. The photos of the first are not needed in the second.

# %%
learner = continual.StrataLearner(backbone)
learner.learn(*photos("bolt", "ring"))
learner.learn(*photos("nut"))
print(learner.classes, f"{learner.evaluate(*photos('bolt', 'ring', 'nut')):.0%} right on new photos")

# %% [markdown]
# ## Say what is unknown
#
# A pin is none of the classes. `false_alarm_rate=0.05` marks what is less like known images than all but 5 % of them.

# %%
answer = learner.predict([photo("pin"), photo("nut")], false_alarm_rate=0.05)
print(answer.labels, answer.unknown.tolist())

# %% [markdown]
# ## Say why
#
# Each place's share of the answer's value. For `strata` the shares are exact: they sum to the value.

# %%
why = continual.explain(learner, photo("ring"))
print(why.answer, "exact" if why.exact else "estimated")
print(np.round(np.asarray(why.places), 2))

# %% [markdown]
# ## Correct and forget
#
# Painted nuts look like bolts. They are learned as corrections, and rings are forgotten.

# %%
COLOURS["nut"] = "steelblue"
painted, _ = photos("nut", count=10)
before = learner.predict(painted).labels
learner.correct(painted, "nut")
learner.forget("ring")
now = learner.predict(painted).labels
print(f"{before.count('nut')} of 10 were answered nut, {now.count('nut')} are now")
print(learner.classes)

# %% [markdown]
# ## To a small device
#
# The model is an ONNX file, and its sums another. On the device `onnx_learner.py`, which the command `equimos export`
# puts beside them, needs onnxruntime, numpy and Pillow, and no PyTorch. It can learn a class, too.

# %%
agreed = continual.export_onnx(learner, "parts.onnx", learnable=True)
print(f"{agreed.same_answers} of {agreed.images} answers are PyTorch's")
shims = []
for number in range(6):
    photo("shim").save(f"shim{number}.png")
    shims.append(f"shim{number}.png")

device = Learner("parts.onnx", "parts.sums.npz")
device.learn(shims[:5], "shim")
print(device.predict(shims[5:])[0]["answer"])

# %% [markdown]
# ## Merge with a second site
#
# Another site has learned pins, with the same backbone and settings. The sums of both are added: the result is the
# model that had learned everything in one place, and no image was moved.

# %%
elsewhere = continual.StrataLearner(backbone)
elsewhere.learn(*photos("pin", "ring"))
both = continual.merged([learner, elsewhere])
print(both.classes, f"{both.evaluate(*photos('bolt', 'nut', 'pin', 'ring')):.0%} right on new photos")

# %% [markdown]
# Next: [everything in Python](../python.md), and [a model's life by commands](../life.md), with versions, a move to a
# newer backbone, and compression.
