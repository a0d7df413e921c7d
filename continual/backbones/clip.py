"""CLIP by open_clip as a zero-shot classifier: an image tower, and a head made of class prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from continual.backbones import arguments
from continual.data.preprocessing import Preprocessing
from continual.errors import BackboneError, InputError, nearest

PREFIX = "clip/"


class ImageTower(nn.Module):
    """Images (n, 3, H, W) → features of length 1, (n, D)."""

    def __init__(self, visual: nn.Module, width: int) -> None:
        super().__init__()
        self.visual, self.num_features = visual, width

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        features = self.visual(x)
        return F.normalize(features[0] if isinstance(features, tuple) else features, dim=-1)


def load_clip(
    name: str,
    weights: Path | None,
    args: dict[str, Any],
    classes: Sequence[str] | None,
    templates: Sequence[str],
    *,
    pretrained: bool = True,
) -> tuple[ImageTower, nn.Linear | None, Preprocessing]:
    """Return the image tower, the head (None without classes) and the preprocessing.

    `name` is open_clip's, with the weights' tag after a dot: "ViT-B-32.openai". A head's row is the mean of the class's
    prompts, normalised, times the logit scale: scores are those of CLIP. Raises BackboneError for a wrong name, tag,
    argument or file, and InputError if open_clip is not installed.
    """
    model, tokenize = created(name, weights, args, pretrained=pretrained)
    head = None if classes is None else _head(model, tokenize, classes, templates)
    width = head.in_features if head else model.text_projection.shape[-1]
    return ImageTower(model.visual, width), head, _preprocessing(model.visual)


def created(
    name: str, weights: Path | None, args: dict[str, Any] | None = None, *, pretrained: bool = True
) -> tuple[Any, Any]:
    """Return a CLIP in evaluation mode, and its tokenizer; see `load_clip`."""
    clip = _open_clip()
    architecture, _, tag = name.partition(".")
    if architecture not in clip.list_models():
        raise BackboneError(f"unknown CLIP {architecture!r}: {nearest(architecture, clip.list_models())}")
    tags = clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and not (weights or not pretrained):
        choice = f"name one of {', '.join(map(repr, tags))}" if tags else "open_clip has no weights for it"
        raise BackboneError(f"{PREFIX}{architecture} needs its weights' tag: {choice}; or give weights=FILE")
    if weights is not None and not weights.is_file():
        raise BackboneError(f"no weights file at {weights}")
    args = arguments.checked(args or {}, f"{PREFIX}{architecture}", arguments.ClipArguments)
    source = str(weights) if weights else tag if pretrained else None
    # Some published weights were trained with another GELU than the architecture of that name has.
    gelu = bool((clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu")) if tag else False
    try:
        given = {**args, "pretrained": source, "force_quick_gelu": gelu, "pretrained_text": False, "weights_only": True}
        model = clip.create_model(architecture, **given)
    except Exception as error:  # every hub, proxy and cache has exceptions of its own
        cure = "check that it is of this CLIP" if weights else "connect to the network once, or give weights=FILE"
        said, kind = str(error).strip().split("\n")[0][:200], type(error).__name__
        text = f"{PREFIX}{name} could not be made from {source or args} ({kind}: {said}): {cure}"
        raise BackboneError(text) from error
    return model.eval(), clip.get_tokenizer(architecture)


def text_rows(model: Any, tokenize: Any, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return a row of length 1 for each class (C, E): the mean of its prompts, normalised."""
    rows = []
    for name in classes:
        prompts = F.normalize(model.encode_text(tokenize([t.replace("{}", name) for t in templates])), dim=-1)
        rows.append(F.normalize(prompts.mean(0), dim=-1))
    return torch.stack(rows)


@torch.no_grad()
def _head(model: Any, tokenize: Any, classes: Sequence[str], templates: Sequence[str]) -> nn.Linear:
    rows = text_rows(model, tokenize, classes, templates)
    head = nn.Linear(rows.shape[1], len(rows), bias=False)
    head.weight.copy_(model.logit_scale.exp() * rows)
    return head


def _preprocessing(visual: Any) -> Preprocessing:
    settings = visual.preprocess_cfg
    size = (settings["size"],) * 2 if isinstance(settings["size"], int) else settings["size"]
    given = {key: settings[key] for key in ("mean", "std", "interpolation")}
    return Preprocessing.from_json({"size": size, "crop_pct": 1.0, **given})


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise InputError('CLIP needs open_clip, which is not installed: pip install "equimos[clip]"') from error
    return open_clip
