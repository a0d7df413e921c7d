"""Images that are arrays or tensors, as what torchvision resizes: the rules are those of `continual.data.arrays`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continual.data.arrays import channels_last, coloured, is_tensor, readable


def picture(raw: Any, index: int | str, value_range: str | None = None, channels: int = 3) -> Image.Image | Tensor:
    """Return an image as one in PIL, a uint8 tensor (C, H, W), or a float32 one from 0 to 1, of `channels` channels.

    Grey becomes RGB and the other way round; a fourth channel beside RGB is transparency. See `readable`, which says
    what is taken, for `value_range` and the InputError that is raised for all else.
    """
    values, layout = readable(raw, index, value_range, channels)
    count = 1 if layout == "HW" else values.shape[0 if layout == "CHW" else -1]
    floats = values.dtype != np.uint8
    if floats and count not in (1, channels):
        values, layout = coloured(channels_last(values, layout), channels), "HWC"
        count = channels
    # A copy of numpy's, which may be read-only or have strides below 0.
    own = torch.from_numpy(values if is_tensor(raw) else np.array(values, order="C"))
    planes = own[None] if layout == "HW" else own if layout == "CHW" else own.permute(2, 0, 1)
    if floats or count == channels != 3 or (is_tensor(raw) and count != 4 and channels == 3):
        return planes.expand(channels, -1, -1) if count == 1 else planes
    pixels = planes.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if count == 1 else pixels)
