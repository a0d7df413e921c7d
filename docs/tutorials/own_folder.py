# %% [markdown]
# # Your folder in five minutes
#
# A model learns the classes of a folder. Next month the folder has a new class, and the model learns that one too,
# without the old images. Then a wrong answer is corrected.
#
# This page needs no download: it draws its photos, and its backbone is a tiny ViT with random weights, which sees
# little more than colours. With your own folder, start at [Learn](#learn), and give a pretrained backbone by name:
# `--backbone vit_base_patch16_224.augreg_in21k`.
#
# ## Photos
#
# One folder per class: `photos/bolt/`, `photos/ring/`, `photos/nut/`.

# %%
import shutil
from pathlib import Path

import numpy as np
import timm
import torch
from IPython.display import display
from PIL import Image, ImageDraw

import continual

random = np.random.default_rng(0)
PARTS = {"bolt": (4, "slategray"), "ring": (40, "goldenrod"), "nut": (6, "sienna"), "shim": (3, "indigo")}


def photo(part: str) -> Image.Image:
    """Draw a part that lies somewhere on a table."""
    corners, colour = PARTS[part]
    image = Image.fromarray(random.normal(200, 15, (64, 64, 3)).clip(0, 255).astype(np.uint8))
    x, y, radius, angle = random.integers([24, 24, 13, 0], [40, 40, 20, 360]).tolist()
    ImageDraw.Draw(image).regular_polygon((x, y, radius), corners, angle, colour, "black")
    return image


def take(part: str, count: int, folder: str = "photos") -> None:
    """Save photos of a part in the folder of its class."""
    place = Path(folder) / part
    place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photo(part).save(place / f"{part}{number}.png")


for part in ("bolt", "ring", "nut"):
    take(part, 15)

shown = Image.new("RGB", (4 * 68, 64), "white")
for place, part in enumerate(PARTS):
    shown.paste(photo(part), (68 * place, 0))
display(shown)

# %% [markdown]
# The backbone, in a file that says its name and arguments:

# %%
torch.manual_seed(0)
shape = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 4}
vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape)
continual.save_backbone(continual.assemble(vit, "vit_tiny_patch16_224", shape), "tiny.safetensors")

# %% [markdown]
# ## Learn
#
# `learn` shows a plan first. Without `--yes` it asks before it starts, and again before it keeps the result.

# %% language="bash"
# equimos learn --images photos --model parts.safetensors --weights tiny.safetensors --yes

# %% [markdown]
# A fifth of the images were held out, to say how good the model is. `parts.safetensors` holds sums and names, and no
# images.
#
# ## Next month
#
# There is a new class, and the old photos are gone.

# %%
shutil.rmtree("photos")
take("shim", 15)

# %% language="bash"
# equimos learn --images photos --model parts.safetensors --weights tiny.safetensors --yes

# %% [markdown]
# What that broke is an estimate this time, since no old image is left. `--max-flips 0.02` would keep no model that
# breaks more than 2 % of the answers. The estimate takes a photo and its mirror image to be alike. To this backbone,
# with random weights, they are not. So it is an upper bound here, [three times too
# high](../strata.md#what-broke-when-the-images-are-gone) in the mean of eight draws of such photos, and close to the
# truth with a pretrained one. Had the old photos stayed in the folder, `learn` would have counted on them.
#
# ## Predict

# %%
for part in PARTS:
    take(part, 2, "new")

# %% language="bash"
# equimos predict --model parts.safetensors --weights tiny.safetensors new

# %% [markdown]
# ## Correct
#
# A painted nut arrives, which the model takes for a bolt. It is learned under its name.

# %%
PARTS["nut"] = (6, "steelblue")
take("nut", 8, "wrong")

# %% language="bash"
# equimos correct --model parts.safetensors --weights tiny.safetensors wrong/nut --class nut

# %% [markdown]
# ## The way back
#
# Each command made a new version of the file. Any of the last ten can be had again.

# %% language="bash"
# equimos history --model parts.safetensors

# %% [markdown]
# ## With a real backbone
#
# The same day from an empty folder, with photos of Tiny-ImageNet and a ViT-S/14 of 11 blocks at 112 px. Seconds by the
# clock, of which every command but the runner's and the question spends many on loading PyTorch:
#
# | step | seconds |
# | --- | ---: |
# | plan | 13 |
# | learn 5 classes of 20 photos | 27 |
# | predict 30 photos | 13 |
# | learn a sixth class | 22 |
# | predict again | 25 |
# | correct an answer | 20 |
# | undo that | 15 |
# | export to ONNX, compared on 6 photos | 51 |
# | answer 30 photos with onnxruntime | 7 |
# | serve, until it listens | 9 |
# | ask over HTTP | 0.2 |
#
# In a fresh environment of Python 3.12, after `pip install ".[serve,export]"` in a checkout, no more. One thread
# of two cores of an AMD EPYC, on which two other measurements ran (load 3 to 5): upper bounds. The
# learners' default seed; [record](../../benchmarks/results/walks.json),
# `OMP_NUM_THREADS=1 python benchmarks/walks.py TINY PLANKTON --weights FILE --out walks.json`.
#
# Next: [all that `learn` does](../own_folders.md), [a page in the browser that is corrected](../serving.md), and
# [edge devices](../edge.md).
