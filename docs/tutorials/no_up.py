# %% [markdown]
# # Images with no up
#
# A slide under a microscope, a satellite tile, a part on a table: such images may lie in any direction, and a model
# should give one answer in all of them. This page asks a folder whether its images have an up, learns them with the
# symmetry that fits, and checks the result.
#
# This page needs no download: it draws its images, and its backbone is a tiny ViT with random weights.
#
# ## Images
#
# Four kinds of grain. Each lies in one of the eight positions of D4: rotations by right angles, and their mirror
# images.

# %%
from pathlib import Path

import numpy as np
import timm
import torch
from IPython.display import display
from PIL import Image, ImageDraw

import continual
from equivariant import Equitune, assert_equivariant, equivariance_error

random = np.random.default_rng(0)
GRAINS = {
    "hook": [(12, 12, 20, 52), (12, 44, 44, 52)],
    "fork": [(12, 12, 20, 52), (12, 28, 44, 36), (36, 12, 44, 36)],
    "pair": [(12, 12, 28, 28), (36, 20, 44, 52)],
    "step": [(12, 12, 36, 20), (28, 20, 36, 44), (28, 44, 52, 52)],
}


def grain(kind: str) -> Image.Image:
    """Draw a grain, in a direction of its own, on a noisy ground."""
    image = Image.fromarray(random.normal(90, 25, (64, 64, 3)).clip(0, 255).astype(np.uint8))
    for box in GRAINS[kind]:
        ImageDraw.Draw(image).rectangle(box, fill=(225, 215, 190))
    pixels = np.rot90(np.asarray(image), random.integers(4))
    return Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if random.random() < 0.5 else pixels))


train = [(grain(kind), kind) for kind in GRAINS for _ in range(12)]
test = [(grain(kind), kind) for kind in GRAINS for _ in range(25)]
for number, (image, kind) in enumerate(train):
    (Path("tiles") / kind).mkdir(parents=True, exist_ok=True)
    image.save(Path("tiles") / kind / f"{number}.png")

shown = Image.new("RGB", (8 * 68, 64), "white")
for place, (image, _) in enumerate(train[::6]):
    shown.paste(image, (68 * place, 0))
display(shown)

# %%
torch.manual_seed(0)
shape = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 4}
vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **shape).eval()
backbone = continual.assemble(vit, "vit_tiny_patch16_224", shape, crop_pct=1.0)
continual.save_backbone(backbone, "tiny.safetensors")

# %% [markdown]
# ## Have my images an up?
#
# `advise` answers each image from all the others: as it is, and with each group. Nothing is trained.

# %% language="bash"
# equimos equivariance advise tiles --weights tiny.safetensors

# %% [markdown]
# ## Learn with a group
#
# `group="auto"` asks the same of the first images that are learned. `equimos learn` has it as `--symmetry auto`.


# %%
def as_lists(pairs: list[tuple[Image.Image, str]]) -> tuple[list[Image.Image], list[str]]:
    """Return images and labels, as learners take them."""
    return [image for image, _ in pairs], [kind for _, kind in pairs]


def moved(image: Image.Image) -> Image.Image:
    """Rotate an image by a quarter turn."""
    return image.transpose(Image.Transpose.ROTATE_90)


learners = {}
for name, group in (("plain", None), ("with a group", "auto")):
    learner = learners[name] = continual.StrataLearner(backbone, group=group)
    learner.learn(*as_lists(train))
    answers = learner.predict([image for image, _ in test]).labels
    again = learner.predict([moved(image) for image, _ in test]).labels
    right = np.mean([answer == kind for answer, (_, kind) in zip(answers, test, strict=True)])
    same = np.mean([one == other for one, other in zip(answers, again, strict=True)])
    print(f"{name}: {right:.0%} right, {same:.0%} answered alike when rotated")
print(learners["with a group"].state.choice.words)

# %% [markdown]
# With the group, an image gets the same answer in all eight positions, to the last bit.
#
# ## Any network
#
# `equivariant` does that for any network, without a learner. Here is the ViT's own feature vector, before and after.

# %%
batch = torch.stack([backbone.preprocessing.for_a_group().evaluation()(image) for image, _ in test[:4]])
with torch.no_grad():
    print(f"error of the plain network: {equivariance_error(vit, 'D4', batch)}")
    wrapped = Equitune(vit, "D4").eval()
    assert_equivariant(wrapped, "D4", batch)
    print(f"error of the wrapped one: {equivariance_error(wrapped, 'D4', batch)}")

# %% [markdown]
# ## With a real backbone
#
# Plankton, four classes of 15 images, and a ViT-S/14 of 11 blocks at 98 px, from an empty folder. Seconds by the clock:
#
# | step | seconds |
# | --- | ---: |
# | which group, by 60 images | 50 |
# | learn 4 classes, --symmetry auto | 41 |
# | predict one image in four directions | 22 |
# | predict 40 images of known classes | 29 |
# | predict 20 images of unknown classes | 20 |
#
# In a fresh environment of Python 3.12, after `pip install ".[serve,export]"` in a checkout, no more. One thread
# of two cores of an AMD EPYC, on which two other measurements ran (load 5 to 6): upper bounds. The
# learners' default seed; [record](../../benchmarks/results/walks.json),
# `OMP_NUM_THREADS=1 python benchmarks/walks.py TINY PLANKTON --weights FILE --out walks.json`.
#
# Next: [what that gains on real images](../no_up.md), [learners with a group](../symmetry.md), and
# [wrappers](../wrappers.md).
