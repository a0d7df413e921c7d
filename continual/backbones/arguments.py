"""The arguments that may reach timm, torchvision and open_clip: what describes a network's structure, and nothing else.

Such arguments come from model files, from the metadata of weights files and from configs, which may be a stranger's.
The libraries have others, with which they fetch an address, write to a folder or open a file; none of them is here.
This is the one place that decides, see `checked`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError
from torch import nn

from continual.errors import BackboneError

#: the most positions that an image is cut into: 4096 px at patches of 16
LARGEST_GRID = 2**16
#: the most parameters of a network: larger ones do not fit the machines that this is for
LARGEST_NETWORK = 2 * 10**10

Pixels = Annotated[StrictInt, Field(ge=1, le=4096)]
Width = Annotated[StrictInt, Field(ge=1, le=65536)]
Count = Annotated[StrictInt, Field(ge=1, le=256)]
Few = Annotated[StrictInt, Field(ge=0, le=256)]
Factor = Annotated[StrictFloat | StrictInt, Field(gt=0, le=1e6)]
Rate = Annotated[StrictFloat | StrictInt, Field(ge=0, lt=1)]


def _each(kind: Any, longest: int = 16) -> Any:
    """Return the type of one value for the network, or of one for each of its stages."""
    return kind | Annotated[list[kind], Field(min_length=1, max_length=longest)]


def _pair(kind: Any) -> Any:
    return kind | Annotated[list[kind], Field(min_length=2, max_length=2)]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StructuralArguments(_Arguments):
    """What may be said of a timm network; each field is optional, and has timm's name and meaning."""

    # Of any network.
    in_chans: Annotated[StrictInt, Field(ge=1, le=1024)]
    num_classes: Annotated[StrictInt, Field(ge=0, le=100_000)] | None
    img_size: _pair(Pixels)  # type: ignore[valid-type]
    global_pool: Literal["", "avg", "avgmax", "max", "catavgmax", "token", "map", "fast", "fastavg", "lp", "gem"]
    drop_rate: Rate
    drop_path_rate: Rate
    drop_block_rate: Rate
    attn_drop_rate: Rate
    proj_drop_rate: Rate
    pos_drop_rate: Rate
    patch_drop_rate: Rate

    # Of transformers.
    patch_size: _pair(Annotated[StrictInt, Field(ge=1, le=256)])  # type: ignore[valid-type]
    embed_dim: _each(Width)  # type: ignore[valid-type]
    depth: Count
    num_heads: _each(Count)  # type: ignore[valid-type]
    num_kv_heads: Count | None
    head_dim: Annotated[StrictInt, Field(ge=1, le=4096)] | None
    mlp_ratio: _each(Annotated[StrictFloat | StrictInt, Field(gt=0, le=64)])  # type: ignore[valid-type]
    qkv_bias: StrictBool
    qkv_fused: StrictBool
    qk_norm: StrictBool
    proj_bias: StrictBool
    scale_attn_norm: StrictBool
    scale_mlp_norm: StrictBool
    scale_attn_inner: StrictBool
    scale_mlp: StrictBool
    swiglu_mlp: StrictBool
    init_values: Annotated[StrictFloat | StrictInt, Field(ge=0, le=100)] | None
    class_token: StrictBool
    reg_tokens: Few
    num_reg_tokens: Few
    pos_embed: Literal["", "none", "learn"]
    no_embed_class: StrictBool
    use_abs_pos_emb: StrictBool
    use_rot_pos_emb: StrictBool
    ref_feat_shape: _pair(Count) | None  # type: ignore[valid-type]
    pre_norm: StrictBool
    final_norm: StrictBool
    fc_norm: StrictBool | None
    use_fc_norm: StrictBool | None
    use_post_norm: StrictBool
    use_pre_transformer_norm: StrictBool
    use_post_transformer_norm: StrictBool | None
    pool_include_prefix: StrictBool
    dynamic_img_size: StrictBool
    dynamic_img_pad: StrictBool
    strict_img_size: StrictBool
    always_partition: StrictBool
    window_size: _pair(Annotated[StrictInt, Field(ge=1, le=512)])  # type: ignore[valid-type]

    # Of networks in stages.
    depths: _each(Count)  # type: ignore[valid-type]
    dims: _each(Width)  # type: ignore[valid-type]
    layers: _each(Count)  # type: ignore[valid-type]
    channels: _each(Width)  # type: ignore[valid-type]
    kernel_sizes: _each(Annotated[StrictInt, Field(ge=1, le=127)])  # type: ignore[valid-type]
    output_stride: Literal[8, 16, 32]
    cardinality: Width
    base_width: Width
    stem_width: Width
    stem_size: Width
    num_features: Width
    fix_stem: StrictBool
    avg_down: StrictBool
    zero_init_last: StrictBool
    replace_stem_pool: StrictBool
    conv_mlp: StrictBool
    conv_bias: StrictBool
    use_grn: StrictBool
    head_norm_first: StrictBool
    head_init_scale: Factor
    ls_init_value: Annotated[StrictFloat | StrictInt, Field(ge=0, le=100)] | None


class TorchvisionArguments(_Arguments):
    """The same for torchvision's networks."""

    num_classes: Annotated[StrictInt, Field(ge=1, le=100_000)]
    image_size: Pixels
    dropout: Rate
    attention_dropout: Rate
    stochastic_depth_prob: Rate
    layer_scale: Annotated[StrictFloat | StrictInt, Field(ge=0, le=100)]
    width_mult: Annotated[StrictFloat | StrictInt, Field(gt=0, le=16)]
    zero_init_residual: StrictBool
    groups: Annotated[StrictInt, Field(ge=1, le=4096)]
    width_per_group: Annotated[StrictInt, Field(ge=1, le=4096)]
    replace_stride_with_dilation: Annotated[list[StrictBool], Field(min_length=3, max_length=3)] | None
    growth_rate: Annotated[StrictInt, Field(ge=1, le=4096)]
    transform_input: StrictBool


class ClipArguments(_Arguments):
    """The same for open_clip's networks."""

    force_image_size: _pair(Pixels)  # type: ignore[valid-type]
    force_patch_dropout: Rate
    force_context_length: Annotated[StrictInt, Field(ge=1, le=4096)]


def checked(arguments: Mapping[str, Any], name: str, kind: type[BaseModel] = StructuralArguments) -> dict[str, Any]:
    """Return arguments that describe the structure of the network `name`, as they are; timm's, unless of another kind.

    Raises BackboneError that names every other argument, and every value out of its bounds.
    """
    problems = []
    for key, value in arguments.items():
        if key not in kind.model_fields:
            close = get_close_matches(str(key), kind.model_fields, 2, 0.75)
            cure = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"only what describes the network is, e.g. {_EXAMPLE.get(kind, 'img_size')}"
            )
            problems.append(f"{str(key)[:80]!r} is not allowed, {cure}")
            continue
        try:
            kind.__pydantic_validator__.validate_assignment(kind.model_construct(), key, _plain(value))
        except ValidationError as error:
            problems.append(f"{key}={_short(value)} is not allowed: {error.errors()[0]['msg'].lower()}")
    if problems:
        raise BackboneError(f"model arguments of {name!r}: {'; '.join(problems)}")
    return dict(arguments)


_EXAMPLE: dict[type[BaseModel], str] = {TorchvisionArguments: "num_classes", ClipArguments: "force_image_size"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_size(skeleton: nn.Module, name: str, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Raise BackboneError for a network too large to be made, or much larger than the `state` that is to fill it.

    `skeleton` is the network on torch's meta device, where it takes no memory.
    """
    sizes = {key: tensor.numel() for key, tensor in skeleton.named_parameters()}
    grid = getattr(getattr(skeleton, "patch_embed", None), "grid_size", None) or (1, 1)
    if (positions := grid[0] * grid[1]) > LARGEST_GRID:
        raise BackboneError(
            f"{name!r} would cut an image into {positions:,} positions, and at most {LARGEST_GRID:,} are allowed: "
            "give a smaller img_size, or a larger patch_size"
        )
    total = sum(sizes.values())
    if total > LARGEST_NETWORK:
        raise BackboneError(f"{name!r} with these arguments has {total:,} parameters, more than {LARGEST_NETWORK:,}")
    if state is not None:
        # Embeddings of positions, which grow with the image, are resized; nothing else is made larger than it is.
        fixed = sum(size for key, size in sizes.items() if "pos_embed" not in key and "rel_pos" not in key)
        held = sum(tensor.numel() for tensor in state.values())
        if fixed > 2 * held + 10**7:
            raise BackboneError(
                f"{name!r} with these arguments has {fixed:,} parameters, and the file holds {held:,}: check the "
                "model's name and arguments"
            )
