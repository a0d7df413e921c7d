# %% [markdown]
# # Volumes with no up
#
# A scan of a cell, or of a rock, is a volume (B, C, D, H, W) that may lie any way round: the 24 rotations of a cube,
# or all 48 with mirrors. `equivariant` knows groups of pictures by name; a group of your own takes an element with a
# product, and an action that says what an element does. Everything else is as for pictures. This takes seconds.
#
#     python examples/volumes.py

# %%
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import equivariant as eq

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## An element, and the two groups
#
# An element moves axis `axes[i]` to the place of axis i, and reverses it where `reversed_[i]`: a signed permutation.


# %%
@dataclass(frozen=True)
class Cube:
    """A rotation or mirror image of a cube: each axis is another one, perhaps backwards."""

    axes: tuple[int, ...] = (0, 1, 2)
    backwards: tuple[bool, ...] = (False, False, False)

    def __mul__(self, first: "Cube") -> "Cube":
        """Return what does `first`, then this one."""
        axes = tuple(first.axes[a] for a in self.axes)
        return Cube(axes, tuple(first.backwards[a] != b for a, b in zip(self.axes, self.backwards, strict=True)))

    @property
    def rotates(self) -> bool:
        """Whether it is a rotation, and no mirror image."""
        swaps = sum(a > b for a, b in itertools.combinations(self.axes, 2))
        return (swaps + sum(self.backwards)) % 2 == 0


@dataclass(frozen=True)
class Volumes(eq.Action):
    """How they act on volumes (B, C, D, H, W) whose sides are equal; values only change places."""

    def __call__(self, group: eq.FiniteGroup, g: int, x: Tensor) -> Tensor:
        if x.ndim != 5 or len(set(x.shape[2:])) > 1:
            raise eq.InputError(f"volumes are (B, C, D, D, D), not {tuple(x.shape)}: pad them to cubes")
        element = group.elements[g]
        moved = x.permute(0, 1, *(2 + axis for axis in element.axes))
        return moved.flip([2 + i for i, backwards in enumerate(element.backwards) if backwards])


quarters = {"a": Cube((0, 2, 1), (False, True, False)), "b": Cube((2, 1, 0), (True, False, False))}
rotations = eq.from_generators("cube", quarters)
everything = eq.from_generators("cube with mirrors", {**quarters, "mirror": Cube(backwards=(True, False, False))})
print(f"{rotations.name}: {rotations.order} elements; {everything.name}: {everything.order}")
assert all(element.rotates for element in rotations.elements)

# %% [markdown]
# ## Any network, made invariant
#
# Lines of one to four voxels in a noisy volume, along one axis in training and along any in the test.


# %%
def scans(count: int, turned: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Return volumes (count, 1, 6, 6, 6) and how long the line in each is, less one."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    x = 0.3 * torch.randn(count, 1, 6, 6, 6, generator=draw)
    for volume, length in zip(x, labels.tolist(), strict=True):
        a, b, start = (int(torch.randint(top, (), generator=draw)) for top in (6, 6, 5 - length))
        volume[0, a, b, start : start + 2 + length] += 2
    elements = torch.randint(everything.order, (count,), generator=draw) * turned
    return eq.orbits.act_each(everything, elements, x, Volumes()), labels


lines = nn.Conv3d(1, 12, (1, 1, 5), padding=(0, 0, 2))
features = nn.Sequential(lines, nn.ReLU(), nn.AdaptiveMaxPool3d(1), nn.Flatten())
model = nn.Sequential(features, nn.Linear(12, 4))
images, labels = scans(600, turned=False, seed=0)
optimizer = torch.optim.AdamW(model.parameters(), 3e-2)
for _ in range(15):
    for rows in torch.randperm(len(labels)).split(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()

options = {"input": Volumes(), "output": eq.Trivial()}
invariant = nn.Sequential(eq.OrbitMax(features.eval(), everything, **options), nn.Linear(12, 4))
recipe = eq.Recipe((eq.Stage("head", steps=100, learning_rate=0.1),))
eq.tune(invariant, scans(300, turned=False, seed=3), scans(100, turned=False, seed=4), recipe)
for name, classifier in (("plain", model), ("maximum", invariant)):
    right = {}
    for turned in (False, True):
        x, truth = scans(200, turned, seed=1)
        with torch.no_grad():
            right[turned] = float((classifier(x).argmax(1) == truth).double().mean())
    print(f"{name:10} as trained {right[False]:.1%}  any way round {right[True]:.1%}")

# %% [markdown]
# Is it so for every element? And a segmenter's masks move with the volume: `output=Volumes()`.

# %%
eq.assert_equivariant(invariant, everything, scans(4, turned=True, seed=2)[0], input=Volumes())
segmenter = eq.Equitune(nn.Conv3d(1, 2, 3, padding=1), rotations, input=Volumes(), output=Volumes(), chunk=6).eval()
error = eq.equivariance_error(segmenter, rotations, torch.randn(2, 1, 5, 5, 5), input=Volumes(), output=Volumes())
print(f"largest error of a segmenter over {rotations.order} rotations: {error.largest:.0e}")
