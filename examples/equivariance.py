# %% [markdown]
# # Handwritten digits that may lie on their side
#
# A network that was trained on upright images is tested on rotated ones. This page shows how to measure how badly
# that goes, how to repair it without touching the network's weights, and how to check the result. It takes about ten
# seconds on one core, and needs no download: the images are scikit-learn's digits, 8 x 8 pixels each.
#
#     python examples/equivariance.py
#
# One digit is left out. A 6 upside down *is* a 9, so no model that is invariant to rotation can tell the two
# apart: make a model invariant only to what does not matter.

# %%
import copy
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import equivariant as eq
from equivariant.style import AFTER, BEFORE

torch.manual_seed(0)
torch.set_num_threads(1)

digits = load_digits()
some = digits.target != 9
images = torch.tensor(digits.images[some], dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target[some])
shuffled = torch.randperm(len(labels))
train, validation, test = (
    (images[rows], labels[rows]) for rows in (shuffled[:900], shuffled[900:1150], shuffled[1150:])
)

# %% [markdown]
# ## A plain network
#
# A small convolutional network, trained on upright digits only. It stands for whatever pretrained model you have.


# %%
def fit(model: nn.Module, data: tuple[Tensor, Tensor], epochs: int, learning_rate: float) -> None:
    """Train all parameters that want it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    pictures, truth = data
    for _ in range(epochs):
        for rows in torch.randperm(len(truth)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures[rows]), truth[rows]).backward()
            optimizer.step()


plain = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(64 * 16, 64),
    nn.ReLU(),
    nn.Linear(64, 9),
)
fit(plain, train, epochs=15, learning_rate=1e-3)
plain.requires_grad_(False).eval()

# %% [markdown]
# ## Is it equivariant?
#
# `C4` is the group of rotations by right angles: `e` (identity), `r90`, `r180`, `r270`. The *equivariance error* of an
# element is how much the answer changes when every image is transformed by it, relative to the answer itself. For a
# class score, which should not change at all, 0 is perfect; rounding in float32 makes it 1e-7 or so. Here it is above
# 1: after a rotation the scores are altogether different.

# %%
print(eq.equivariance_error(plain, "C4", test[0]))

# %% [markdown]
# What that means for the answers: *consistency* is the share of images that get the same answer in all four
# views, and the *flip rate* counts how often the model is right on an image but wrong once it is rotated.

# %%
answers = eq.orbit_answers(plain, "C4", test[0])
print(f"upright {(answers[0] == test[1]).float().mean():.1%}, rotated {(answers == test[1]).float().mean():.1%}")
print(
    f"one answer over the orbit {eq.orbit_consistency(answers):.1%}, flips {eq.orbit_flip_rate(answers, test[1]):.1%}"
)

# %% [markdown]
# ## Three cures
#
# Each wraps the network as it is, holds no copy of it, and is exactly invariant from the first moment.
#
# - `Equitune` averages the scores of all four views. Nothing is learned. Three of the four views are ones the network
#   reads badly, so the mean is worse than the upright view alone: equitune is meant for fine-tuning.
# - `Equizero` takes the view of which the network is most certain (least entropy). Nothing is learned either.
# - `LambdaEquitune` averages with weights from a small network λ, which looks at the features of each view. Here λ
#   alone is trained, on the same upright images; the network stays frozen.

# %%
features, head = eq.take_off_head(copy.deepcopy(plain), name="8")
weighted = eq.LambdaEquitune(features, "C4", head=head)
recipe = eq.Recipe((eq.Stage("weights", steps=300, learning_rate=3e-3),))
eq.tune(weighted, train, validation, recipe)

models = {
    "plain": plain,
    "equitune": eq.Equitune(plain, "C4"),
    "equizero": eq.Equizero(plain, "C4"),
    "λ-equitune, λ only": weighted,
}

# %% [markdown]
# To fine-tune, train the wrapper like any module. Half the steps of the first training are enough.

# %%
tuned = eq.Equitune(copy.deepcopy(plain).requires_grad_(True), "C4")
fit(tuned, train, epochs=7, learning_rate=1e-3)
models["equitune, fine-tuned"] = tuned.eval()

# %% [markdown]
# ## Check the cure
#
# `assert_equivariant` raises, and names the worst element, if a model is not what it claims to be. It knows nothing of
# how the model was made, so it belongs in your own tests.

# %%
for name, model in models.items():
    if name != "plain":
        eq.assert_equivariant(model, "C4", test[0][:50])

# %% [markdown]
# ## What it is worth
#
# Upright, and rotated by a random multiple of 90°. An invariant model scores the same on both, whatever it is: the
# question is how much of the upright accuracy it keeps.

# %%
scores = {name: eq.evaluate(model, test, "C4") for name, model in models.items()}
for name, score in scores.items():
    print(f"{name:<21} upright {score.upright:.1%}   rotated {score.turned:.1%}")
print("λ's mean weight on an upright image:", {g: round(w, 2) for g, w in scores["λ-equitune, λ only"].weights.items()})

# %% [markdown]
# ## A picture
#
# One test digit in its four orientations, with the weight λ gives to each view, and all accuracies. The weights are
# equivariant: in whatever orientation the image is given, the same view gets the most.

# %%
figure = Figure(figsize=(10, 5.5), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(1, 1.25))
digit = test[0][:1]
with torch.no_grad():
    weights = weighted.orbit_weights(digit)[:, 0].tolist()
for axes, name, weight in zip(above.subplots(1, 4), weighted.group.names, weights, strict=True):
    axes.imshow(eq.act("C4", name, digit)[0, 0].numpy(), cmap="gray_r")
    axes.set_title(f"{name}: λ = {weight:.2f}")
    axes.set_axis_off()

axes = below.subplots()
for shift, what, label, colour in ((-0.2, "upright", "upright", BEFORE), (0.2, "turned", "rotated", AFTER)):
    places = [place + shift for place in range(len(scores))]
    bars = axes.barh(places, [100 * getattr(score, what) for score in scores.values()], 0.4, color=colour, label=label)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
axes.set_yticks(range(len(scores)), list(scores))
axes.set(xlabel="accuracy on test digits [%]", xlim=(0, 118))
axes.invert_yaxis()
axes.legend(frameon=False, loc="center right")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/equivariance.png", dpi=120)
print("see runs/equivariance.png")
