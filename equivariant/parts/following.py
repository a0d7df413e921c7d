"""What a wrapper's own parts follow from the model: dtype, device, training mode, channels, widths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from equivariant.errors import InputError
from equivariant.outputs import first_scores
from equivariant.parts.surgery import evaluating


def like_model(model: nn.Module, part: nn.Module) -> nn.Module:
    """Return a new part with the dtype and device of the model's first weights, and the model's training mode."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None:
        part.to(weight.device, weight.dtype)
    return part.train(model.training)


def channels_of(model: nn.Module) -> int:
    """Return how many channels the model's images have, by its first convolution; 3 if it has none."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), 3)


def output_width(model: nn.Module) -> int | None:
    """Return how many features, or scores, the model gives an image; None if it cannot be tried out.

    It is run once, on images without values (torch's "meta" device), which costs no time, or where that fails on zeros.
    """
    for image, tensors in _probes(model):
        try:
            with evaluating(model):
                found = first_scores(torch.func.functional_call(model, tensors, (image,)))
        except Exception:  # whatever a model may raise for images that it is not made for
            continue
        return int(found.shape[2] if found.ndim == 3 else found.shape[1])
    return None


def _probes(model: nn.Module) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield images to try the model on, with what to use for its weights."""
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weight = next((p for p in held.values() if p.is_floating_point()), torch.empty(0))
    meta = {name: tensor.to("meta") for name, tensor in held.items()}
    for device, tensors in (("meta", meta), (weight.device, held)):
        for height, width in _sizes(model):
            yield torch.zeros(1, channels_of(model), height, width, dtype=weight.dtype, device=device), tensors


def _sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Return the image sizes a model says it takes, as timm, torchvision and transformers do; then common ones."""
    found: list[Any] = []
    for module in model.modules():
        found += [getattr(module, "img_size", None), getattr(module, "image_size", None)]
        found.append(getattr(getattr(module, "config", None), "image_size", None))
        settings = getattr(module, "pretrained_cfg", None)
        found.append(settings.get("input_size", (None,))[1:] if isinstance(settings, dict) else None)
    sizes = [(size, size) if isinstance(size, int) else tuple(size or ()) for size in (*found, 224, 64, 32)]
    return list(dict.fromkeys(size for size in sizes if len(size) == 2))


def check_channels(expected: int, images: Tensor, cure: str) -> None:
    """Raise InputError unless images (n, C, H, W) have so many channels."""
    if images.shape[1] != expected:
        raise InputError(f"the score network takes {expected} channels, but the images have {images.shape[1]}: {cure}")
