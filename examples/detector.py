# %% [markdown]
# # A detector for drone and slide images
#
# Any detector that takes and returns what torchvision's do: a list of images, a list of dicts. Wrapped, its boxes move
# exactly with the image, whatever its shape. (Weights are random here, so that nothing is downloaded: load your own.)
#
#     python examples/detector.py

# %%
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import equivariant as eq

torch.manual_seed(0)
torch.set_num_threads(1)
plain = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3, detections_per_img=5).eval()
image = torch.rand(3, 60, 80)
moved = image.rot90(1, (1, 2))  # a quarter turn: 80 x 60 pixels

# %% [markdown]
# ## Does it see the same objects?
#
# Boxes of the rotated image, moved back, should be those of the image.


# %%
def largest_difference(detector: torch.nn.Module) -> float:
    """Return how far boxes are from where they should be, in pixels; infinite if there are more or fewer."""
    with torch.no_grad():
        (found,), (other,) = detector([image]), detector([moved])
    if len(found["boxes"]) != len(other["boxes"]):
        return float("inf")
    x0, y0, x1, y1 = found["boxes"].unbind(1)
    expected = torch.stack([y0, 80 - x1, y1, 80 - x0], 1)
    order, own = (boxes.sum(1).argsort() for boxes in (other["boxes"], expected))
    return float((other["boxes"][order] - expected[own]).abs().max())


detectors = {
    "plain": plain,
    "fused": eq.EquivariantDetector(plain, "C4"),  # all four views; boxes that overlap are one
    "best": eq.EquivariantDetector(plain, "C4", combine="best"),  # all four views; the surest one answers
    "one view": eq.EquivariantDetector(plain, "C4", score=eq.ImageScore()).eval(),  # which a small network prefers
}
for name, detector in detectors.items():
    print(f"{name:9} boxes are off by {largest_difference(detector):.2g} pixels")
