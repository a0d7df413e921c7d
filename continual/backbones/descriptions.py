"""Backbones as model files describe them, made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from continual.backbones import described
from continual.backbones.fitting import listed, mismatches
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, assemble, create, from_hub, load_backbone, skeleton
from continual.backbones.recipes import Compressed, Grown, parsed
from continual.data.preprocessing import Preprocessing
from continual.errors import BackboneError
from continual.seeding import seeded


def rebuild(description: Mapping[str, Any], state: Mapping[str, Tensor] | None = None) -> Backbone:
    """Make the backbone that `Backbone.describe` described, from embedded weights `state` if given.

    Raises BackboneError if the weights now differ from those described; the message has both hashes.
    """
    if "parts" not in description:
        return _rebuilt(description, state)
    parts = [_rebuilt(part, _own(state, place)) for place, part in enumerate(described(description))]
    backbone = side_by_side(parts)
    check_same_weights(backbone, description)
    return backbone


def with_weights(description: Mapping[str, Any], weights: Sequence[str | Path]) -> dict[str, Any]:
    """Return a description whose weights lie elsewhere now: a file for each backbone, in their order, or none at all.

    Raises BackboneError for another number of files.
    """
    parts = described(description)
    if not weights:
        return dict(description)
    if len(weights) != len(parts):
        raise BackboneError(
            f"the model has {len(parts)} backbone{'s' * (len(parts) > 1)} ({', '.join(p['name'] for p in parts)}) and "
            f"{len(weights)} weights files are given: give one for each, in this order"
        )
    moved = [{**part, "weights_file": str(file)} for part, file in zip(parts, weights, strict=True)]
    return {**description, "parts": moved} if "parts" in description else moved[0]


def check_same_weights(backbone: Backbone, description: Mapping[str, Any]) -> None:
    """Raise BackboneError unless the backbone has the weights that were described."""
    for part, own in zip(described(backbone.describe()), described(description), strict=False):
        if part["sha256"] != own["sha256"]:
            raise BackboneError(
                f"the model was made with backbone weights {own['sha256']} ({own['name']}), but "
                f"these are {part['sha256']} ({part['name']}): pass the same weights file and model arguments "
                f"{own['model_args']}"
            )
    if backbone.sha256 != description["sha256"]:
        raise BackboneError(f"the model was made with {description['name']}, but these are {backbone.name}")


def for_model(backbone: Backbone, description: Mapping[str, Any]) -> Backbone:
    """Return a backbone that is given for a model, so that it prepares images as the model was made to.

    Raises BackboneError unless it has the weights and the size of images that were described.
    """
    check_same_weights(backbone, description)
    parts = [_preparing(part, own) for part, own in zip(backbone.parts, described(description), strict=True)]
    same = all(part is own for part, own in zip(parts, backbone.parts, strict=True))
    return backbone if same else side_by_side(parts)


def _preparing(backbone: Backbone, description: Mapping[str, Any]) -> Backbone:
    """Return a backbone that prepares images as one was described to; itself if it does."""
    prepared, frozen = Preprocessing.from_json(description["preprocessing"]), backbone.frozen
    if prepared.size != frozen.image_size or len(prepared.mean) != frozen.channels:
        raise BackboneError(
            f"the model prepares images of {prepared.size} with {len(prepared.mean)} channels, and {backbone.name!r} "
            f"takes {frozen.image_size} with {frozen.channels}: pass the model arguments {description['model_args']}"
        )
    return backbone if prepared == backbone.preprocessing else replace(backbone, preprocessing=prepared)


def _own(state: Mapping[str, Tensor] | None, place: int) -> dict[str, Tensor] | None:
    """Return one network's weights of those embedded of several."""
    own = f"{place}."
    if state is None:
        return None
    return {key.removeprefix(own): value for key, value in state.items() if key.startswith(own)}


@seeded(0, "random weights, soon replaced")
def _rebuilt(description: Mapping[str, Any], state: Mapping[str, Tensor] | None) -> Backbone:
    name, model_args, file = (description[key] for key in ("name", "model_args", "weights_file"))
    recipe = parsed(description.get("recipe"))
    if state is None and file is not None:
        backbone = load_backbone(name, weights=file, **model_args)
    else:
        if state is None and recipe is not None:
            raise BackboneError(
                f"the model's backbone was {recipe.words}, and the model does not say where its file is"
            )
        network = from_hub(name, model_args) if state is None else _embedded(name, model_args, state, recipe)
        backbone = replace(assemble(network, name, model_args, weights_file=file), recipe=recipe)
    check_same_weights(backbone, description)
    fit = description.get("weights_fit") or backbone.fit
    return replace(_preparing(backbone, description), fit=fit)


def _embedded(
    name: str, model_args: Mapping[str, Any], state: Mapping[str, Tensor], recipe: Compressed | Grown | None
) -> nn.Module:
    """Make the network of which a model file embeds the `state`: exactly that, and only then is memory taken."""
    if problems := mismatches(skeleton(name, model_args, recipe).state_dict(), state):
        raise BackboneError(f"the embedded backbone is no {name!r} with {dict(model_args)}: {listed(problems)}")
    network = create(name, model_args, state, recipe)
    network.load_state_dict(dict(state))
    return network


def licence_of(name: str) -> str | None:
    """Return the licence that timm notes of a backbone's published weights, None where it notes none.

    >>> licence_of("vit_base_patch16_224.augreg_in21k"), licence_of("nothing")
    ('apache-2.0', None)
    """
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(name)
    except (RuntimeError, ValueError):
        return None
    return getattr(found, "license", None) or None
