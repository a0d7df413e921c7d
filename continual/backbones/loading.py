"""Pretrained timm networks by full tag or from a local file, with their provenance and preprocessing."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import to_2tuple
from timm.models import eva, get_pretrained_cfg_value, is_model, vision_transformer
from torch import Tensor, nn

from continual.backbones import arguments
from continual.backbones.arguments import check_size
from continual.backbones.base import FrozenBackbone
from continual.backbones.convnet import FrozenConvNet
from continual.backbones.factored import factor
from continual.backbones.fitting import Fit, fill
from continual.backbones.recipes import Compressed, Grown, in_header, of_header
from continual.backbones.vit import FrozenViT
from continual.backbones.weights import noted, read_weights
from continual.data.preprocessing import Preprocessing
from continual.errors import BackboneError, nearest
from continual.files import store
from continual.seeding import seeded


@dataclass(frozen=True, repr=False)
class Backbone:
    """A frozen network, where it came from, and how images are prepared for it."""

    frozen: FrozenBackbone
    name: str  #: timm's name; a full tag such as 'vit_base_patch16_224.augreg_in21k' for hub weights
    model_args: Mapping[str, Any]
    preprocessing: Preprocessing
    weights_file: str | None = None  #: the local file the weights were read from
    sha256: str = field(default="")  #: of the weights as they are used, see `fingerprint`
    fit: Fit | str | None = field(default=None, compare=False)  #: how a local file's tensors went into the network
    recipe: Compressed | Grown | None = None  #: how it was made of another backbone, if it was
    _on: dict[torch.device, Backbone] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", self.sha256 or fingerprint(self.frozen.network))

    @property
    def trunk(self) -> FrozenBackbone:
        """Deprecated: `frozen`."""
        warnings.warn("trunk is now called frozen", DeprecationWarning, stacklevel=2)
        return self.frozen

    @property
    def width(self) -> int:
        """D, the length of a feature."""
        return self.frozen.width

    @property
    def parts(self) -> tuple[Backbone, ...]:
        """The backbones that it is made of: itself, or several side by side."""
        return (self,)

    @property
    def depth(self) -> int:
        """L, the number of blocks, or of a CNN's stages."""
        return self.frozen.depth

    def __repr__(self) -> str:
        height, width = self.frozen.image_size
        return f"<Backbone {self.name}: {self.depth} x {self.width}, {height} x {width} px, {self.sha256[:8]}>"

    def on(self, device: torch.device) -> Backbone:
        """Return the backbone on a device: itself if it is there, else a copy, made once."""
        place = torch.empty(0, device=device).device  # "cuda" is the current one of them
        if next(self.frozen.parameters()).device == place:
            return self
        if place not in self._on:
            self._on[place] = replace(self, frozen=copy.deepcopy(self.frozen).to(place))
        return self._on[place]

    def describe(self) -> dict[str, Any]:
        """Return the provenance as plain JSON values; `descriptions.rebuild` is its inverse."""
        values = {
            "name": self.name,
            "model_args": dict(self.model_args),
            "weights_file": self.weights_file,
            "sha256": self.sha256,
            "preprocessing": asdict(self.preprocessing),
        }
        values |= {"weights_fit": str(self.fit)} if self.fit else {}
        values |= {"recipe": self.recipe.model_dump()} if self.recipe else {}
        # As they come back from a file, lists for tuples, so that the two can be compared.
        return dict(json.loads(json.dumps(values)))


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's tensors: names, shapes and bytes, independent of any file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@seeded(0, "random weights, soon replaced")
def load_backbone(name: str | None = None, *, weights: str | Path | None = None, **options: Any) -> Backbone:
    """Make a frozen backbone from timm's hub weights, or from a local file.

    - `load_backbone("vit_base_patch16_224.augreg_in21k")` downloads (or finds in the cache) the weights
      of that tag. An untagged name is refused: what it means has changed between timm releases.
    - `load_backbone("vit_small_patch14_dinov2", weights="weights.safetensors", img_size=98)` reads a local
      safetensors, npz (timm's JAX layout or plain arrays) or torch file (weights only, never code): also a training
      program's, with names of its own before the network's, and heads beside it. A safetensors file may carry the
      name (`timm`) and model arguments (`depth`, ...) as metadata; those given here come first. One that
      `save_backbone` wrote has its preprocessing and recipe there as well.
    - `load_backbone("tf_efficientnet_lite0.in1k", img_size=128)` makes a CNN, which takes images of any size.

    `options` named like a field of `Preprocessing` (`mean`, `std`, `crop_pct`, `interpolation`,
    `crop_scale`, `mirror`) change the preprocessing; the others (`img_size`, `in_chans`, ...) go to timm, if they are
    among `arguments.StructuralArguments`.
    Raises BackboneError with what to do instead.
    """
    changes = {key: options.pop(key) for key in list(options) if key in Preprocessing.changeable()}
    fit = recipe = None
    if weights is None:
        if name is None:
            raise BackboneError("name a backbone, e.g. 'vit_base_patch16_224.augreg_in21k', or give weights=FILE")
        vit = from_hub(name, options)
    else:
        path = Path(weights)
        state, metadata = read_weights(path)
        named, own = noted(metadata)
        recipe, prepared = of_header(metadata)
        changes = {**prepared, **changes}
        name = name or named
        if name is None:
            raise BackboneError(f"{path} does not say which timm model it is for: give its name as well")
        options = {**own, **options}
        vit = create(name, options, state, recipe)
        fit = fill(vit, state, path, name)
    file = str(Path(weights).resolve()) if weights else None
    return replace(assemble(vit, name, options, weights_file=file, **changes), fit=fit, recipe=recipe)


def assemble(
    network: nn.Module,
    name: str,
    model_args: Mapping[str, Any] | None = None,
    *,
    weights_file: str | None = None,
    **preprocessing: Any,
) -> Backbone:
    """Freeze a network you already have, and drop its classifier; `name` is timm's name for its architecture.

    The preprocessing is the one timm knows for the model, with the fields in `preprocessing` changed; for a number of
    channels other than three, mean and std are those of RGB, averaged, for each. A CNN is given
    images of the size `img_size` of its `model_args`, or of the one timm knows for it.
    """
    config = resolve_model_data_config(network)
    frozen: FrozenBackbone
    if isinstance(network, vision_transformer.VisionTransformer | eva.Eva):
        frozen = FrozenViT(network)
    else:
        frozen = FrozenConvNet(network, to_2tuple((model_args or {}).get("img_size", config["input_size"][1:])))
    prepared = Preprocessing(
        size=frozen.image_size,
        mean=_per_channel(config["mean"], frozen.channels),
        std=_per_channel(config["std"], frozen.channels),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
    )
    prepared = replace(prepared, **preprocessing)
    if {len(prepared.mean), len(prepared.std)} != {frozen.channels}:
        raise BackboneError(
            f"{name!r} takes {frozen.channels} channels: give as many numbers for mean and std, got {prepared.mean} "
            f"and {prepared.std}"
        )
    return Backbone(frozen, name, dict(model_args or {}), prepared, weights_file)


def save_backbone(backbone: Backbone, path: str | Path) -> Backbone:
    """Write one backbone to a safetensors file, atomically, and return it as `load_backbone(weights=path)` gives it.

    The header has its name, arguments, preprocessing and recipe. Numbers that 16 bits hold exactly, all of them, are
    written so. Raises BackboneError for several side by side, ModelFileError if the file cannot be written.
    """
    if len(backbone.parts) > 1:
        raise BackboneError("several backbones are no one file: save each of its parts")
    state = {name: tensor.cpu() for name, tensor in backbone.frozen.network.state_dict().items()}
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    exact = all(torch.equal(tensor.float(), state[name].float()) for name, tensor in halves.items())
    about = {key: json.dumps(value) for key, value in backbone.model_args.items()}
    about |= {"timm": backbone.name, **in_header(backbone.recipe, backbone.describe()["preprocessing"])}
    store(path, halves if exact else state, about)
    return replace(backbone, weights_file=str(Path(path).resolve()))


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one value for each channel: those for RGB, or for any other number of channels their mean."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def create(
    name: str,
    model_args: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
    recipe: Compressed | Grown | None = None,
) -> nn.Module:
    """Make a timm model with random weights, and no head unless `num_classes` is among its arguments.

    A `recipe` changes what it is made of. Raises BackboneError for a wrong name or argument, and before any memory is
    taken for a network that is too large, or much larger than the `state` that is to fill it.
    """
    check_size(skeleton(name, model_args, recipe), name, state)
    return _by(recipe, _tried(name, model_args))


def skeleton(name: str, model_args: Mapping[str, Any], recipe: Compressed | Grown | None = None) -> nn.Module:
    """Make a timm model that takes no memory, on torch's meta device; raises BackboneError as `create` does."""
    architecture = name.split(".")[0]
    if not is_model(architecture):
        raise BackboneError(f"unknown timm model {name[:80]!r}: {nearest(architecture, timm.list_models())}")
    with torch.device("meta"):
        return _by(recipe, _tried(name, arguments.checked(model_args, name)))


def _by(recipe: Compressed | Grown | None, network: nn.Module) -> nn.Module:
    """Return a network of what a recipe says that it is made of; its shape is in its arguments."""
    if isinstance(recipe, Compressed):
        factor(network, recipe.ranks)
    return network


def _tried(name: str, model_args: Mapping[str, Any]) -> nn.Module:
    try:
        return _made(name, model_args, pretrained=False)
    except (TypeError, RuntimeError, ValueError, ArithmeticError, AssertionError, LookupError) as error:
        raise BackboneError(f"timm cannot make {name!r} with {dict(model_args)}: {error}") from error


def _made(name: str, model_args: Mapping[str, Any], pretrained: bool) -> nn.Module:
    given = {"num_classes": 0, **arguments.checked(model_args, name)}
    try:
        return timm.create_model(name, pretrained, **given).float()
    except TypeError as error:
        # Convolutions take images of any size, and most CNNs no such argument.
        if "'img_size'" not in str(error):
            raise
    del given["img_size"]
    return timm.create_model(name, pretrained, **given).float()


def from_hub(name: str, model_args: Mapping[str, Any]) -> nn.Module:
    """Make a timm model as `create` does, with the hub's weights of its tag; raises BackboneError if it cannot.

    A download is said on standard error before it starts. Only weights that timm itself names are downloaded.
    """
    check_tag(name)
    # Wrong names and arguments fail here, before any download.
    check_size(skeleton(name, model_args), name)
    if not in_cache(name):
        print(f"fetching the weights of {name} from {source(name)}", file=sys.stderr, flush=True)
    try:
        return _made(name, model_args, pretrained=True)
    except Exception as error:  # every hub, proxy and cache has exceptions of its own
        raise BackboneError(
            f"the weights of {name!r} could not be fetched from {source(name)} ({type(error).__name__}): "
            f"connect to the network once, or download them and pass weights=FILE"
        ) from error


def check_tag(name: str) -> None:
    """Raise BackboneError if timm has the model, but no weights of this tag."""
    architecture, _, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*") if is_model(architecture) else []
    if is_model(architecture) and name not in tags:
        what = f"has no tag {tag!r}" if tag else "needs its weights' tag, because timm may change the default"
        choice = f"name one of {', '.join(map(repr, tags))}" if tags else "timm has no weights for it"
        raise BackboneError(f"backbone {architecture!r} {what}: {choice}; or give weights=FILE")


def source(name: str) -> str:
    """Return where timm has the weights of a tag from."""
    repository = get_pretrained_cfg_value(name, "hf_hub_id")
    return f"huggingface.co/{repository}" if repository else get_pretrained_cfg_value(name, "url") or "the hub"


def in_cache(name: str) -> bool:
    """Tell whether the weights of a tag were downloaded before, without a network."""
    from huggingface_hub import try_to_load_from_cache

    repository = get_pretrained_cfg_value(name, "hf_hub_id")
    return bool(repository) and isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)
