"""A frozen timm ViT, taken in steps, so that adapters can stand beside each block's MLP.

Nothing of the ViT is copied: its own sub-modules are called, in the order of its own residual halves. Because another
timm release or an unusual model could order them differently, a `FrozenViT` compares itself with the model's own
forward on a probe image when it is built, and refuses a model it would not reproduce.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from timm.models import eva, vision_transformer
from torch import Tensor, nn
from torch.utils import checkpoint as checkpoints

from continual.adapters.base import Adapters, Serving, Shapes, read_blocks, serving, standardised
from continual.backbones.attention import ALL, attend
from continual.backbones.base import FrozenBackbone, SharedStem, TokenPart, apart, beside
from continual.errors import BackboneError

Attention = Callable[[Any, Tensor, slice, Any, Tensor | None], Tensor]
MLP = Callable[[Any, Tensor], Tensor]


def _gain(gamma: Tensor | None, x: Tensor) -> Tensor:
    return x if gamma is None else gamma * x


#: Block class -> (attention half: tokens, those to go on with, rope, weight -> h;
#: MLP half: h -> tokens without adapters)
_HALVES: dict[type, tuple[Attention, MLP]] = {
    vision_transformer.Block: (
        lambda b, x, read, _, own: x[:, read] + b.ls1(attend(b.attn, b.norm1(x), read, None, own)),
        lambda b, h: h + b.ls2(b.mlp(b.norm2(h))),
    ),
    vision_transformer.ResPostBlock: (
        lambda b, x, read, _, own: x[:, read] + b.norm1(attend(b.attn, x, read, None, own)),
        lambda b, h: h + b.norm2(b.mlp(h)),
    ),
    eva.EvaBlock: (
        lambda b, x, read, rope, own: x[:, read] + _gain(b.gamma_1, attend(b.attn, b.norm1(x), read, rope, own)),
        lambda b, h: h + _gain(b.gamma_2, b.mlp(b.norm2(h))),
    ),
    eva.EvaBlockPostNorm: (
        lambda b, x, read, rope, own: x[:, read] + b.norm1(attend(b.attn, x, read, rope, own)),
        lambda b, h: h + b.norm2(b.mlp(h)),
    ),
}

_SUPPORTED = (
    "models whose blocks are an attention half followed by an MLP half: timm's VisionTransformer family "
    "(vit_*, deit*, *_dinov2, *_reg4, clip and siglip image towers) and Eva family (eva02_*, *_dinov3)"
)


class FrozenViT(FrozenBackbone):
    """A ViT whose weights never change; `features` runs it with or without adapters.

    Raises BackboneError when built on a model whose forward it cannot reproduce.
    """

    has_blocks = True

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        name = type(vit).__name__
        if not isinstance(vit, vision_transformer.VisionTransformer | eva.Eva):
            raise BackboneError(f"adapters cannot be attached to a {name}: use {_SUPPORTED}")
        unknown = {type(block).__name__ for block in vit.blocks if type(block) not in _HALVES}
        if unknown:
            raise BackboneError(
                f"{name} has blocks of kind {', '.join(sorted(unknown))}, which have no point between "
                f"attention and MLP where an adapter could read: use {_SUPPORTED}"
            )
        self.network = vit
        self.depth: int = len(vit.blocks)
        self.width: int = vit.embed_dim
        self.image_size: tuple[int, int] = tuple(vit.patch_embed.img_size)
        vit.reset_classifier(0)
        self.freeze()
        self._compare_with_own_forward()

    @property
    def shapes(self) -> Shapes:
        attention = self.network.blocks[0].attn
        weight = getattr(getattr(attention, "qkv", None), "weight", None)
        return Shapes(self.depth, self.width, 0 if weight is None else len(weight))

    @property
    def stages(self) -> list[nn.Module]:
        return [block.norm1 for block in self.network.blocks]

    def _compare_with_own_forward(self) -> None:
        probe = self.probe()
        with torch.no_grad():
            theirs = self.network.forward_head(self.network.forward_features(probe), pre_logits=True)
            ours = self.features(probe)
        if not torch.allclose(ours, theirs.float(), rtol=1e-3, atol=1e-4):
            raise BackboneError(
                f"taken block by block, this {type(self.network).__name__} does not give its own features "
                f"(largest difference {float((ours - theirs).abs().max()):.2g}): use {_SUPPORTED}"
            )

    def stem(self, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> SharedStem:
        """Run images (B, 3, H, W) as far as no adapter matters: embedding, the first block's attention and its MLP.

        For adapters that only read tokens, after `reads` blocks, that is the whole ViT.
        With gradients the MLP is left to `features`, which knows what to keep of it. `prompts` (B, P, D) are tokens
        that enter the first block before those of the patches. Raises BackboneError for prompts in a ViT with rotary
        positions, which belong to the places of its tokens.
        """
        vit = self.network
        tokens, rope = vit.patch_embed(images), None
        if isinstance(vit, eva.Eva):
            tokens, rope = vit._pos_embed(tokens)
        else:
            tokens = vit._pos_embed(tokens)
        count = 0
        if prompts is not None:
            if rope is not None:
                raise BackboneError(f"a {type(vit).__name__} with rotary positions takes no prompts: use a vit_* model")
            place, count = vit.num_prefix_tokens, prompts.shape[1]
            tokens = torch.cat([tokens[:, :place], prompts.to(tokens.dtype), tokens[:, place:]], dim=1)
        h = self._attend(0, vit.norm_pre(tokens), rope)
        # Of a last block, `features` runs the MLP for few tokens only.
        known = None if torch.is_grad_enabled() or self.depth == 1 else self._mlp(0, h)
        stem = SharedStem(h, rope, count, known)
        return self._whole(stem, reads) if reads else stem

    def _whole(self, stem: SharedStem, reads: int) -> SharedStem:
        """Return the stem with what the ViT alone makes of it."""
        seen: dict[int, Tensor] = {}
        features = self._run(stem, None, False, seen)
        # Once for all adapters that read them.
        tokens = [standardised(level) for level in (stem.h, *(seen[place] for place in read_blocks(self.depth, reads)))]
        return replace(stem, passed=(*tokens, beside(features.unsqueeze(1), stem.views)))

    def features(
        self,
        images: Tensor | SharedStem,
        adapters: Adapters | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        checkpoint: bool = False,
        compiled: str | None = None,
    ) -> Tensor:
        """Return the final normed features (B, D) of images (B, 3, H, W) or their stem, in float32 (or wider).

        Of a stem of several views of each image, they are those of every view, (B m, D); an image's adapters serve
        all its views.
        With `adapters`, block l's output is its own plus `adapters(l, h)`, h being the tokens between
        its attention and its MLP (MOS section 3.1); or its attention has another weight, but in the first block; or
        the features are the ViT's own, plus what is made of its tokens. With prompts in the stem, the features are the
        mean of what becomes of them. With `weights`, they stand for the ViT's parameters of the same names, which
        stay as they are. With `checkpoint`, what a block's halves need for gradients is computed again when it is
        needed. `compiled` is a backend of torch.compile, which then runs everything after the stem.
        """
        if weights is not None:
            return self.under(weights, images, adapters, checkpoint)
        if compiled is None:
            return self.forward(images, adapters, checkpoint)
        stem = images if isinstance(images, SharedStem) else self.stem(images)
        return _compiled(compiled)(self, stem, adapters, checkpoint)

    def forward(
        self, images: Tensor | SharedStem, adapters: Adapters | None = None, checkpoint: bool = False
    ) -> Tensor:
        """Return the features under the ViT's own weights."""
        served = serving(adapters)
        stem = images if isinstance(images, SharedStem) else self.stem(images, reads=served.reads)
        if served.after is None:
            return self._run(stem, served, checkpoint)
        whole = stem if stem.passed else self._whole(stem, served.reads)
        *tokens, features = (apart(tensor, stem.views) for tensor in whole.passed)
        return features.squeeze(1) + served.after(tokens, self._pool)

    def _run(
        self, stem: SharedStem, served: Serving | None, checkpoint: bool, seen: dict[int, Tensor] | None = None
    ) -> Tensor:
        """Return features (B m, D); `seen` takes the tokens after as many blocks as its keys say."""
        vit, served = self.network, served or Serving()
        run = _run_again if checkpoint and torch.is_grad_enabled() else _run
        views, last = stem.views, self.depth - 1
        tokens = stem.h
        for index in range(self.depth):
            if index:
                # After the last attention a token's feature depends on that token alone.
                read = self._read(stem) if index == last else ALL
                weight = self._weight(index, served, views)
                h = beside(run(self._attend, index, apart(tokens, views), stem.rope, read, weight), views)
            else:
                h = self.read(stem.h, stem) if last == 0 else stem.h
            known = stem.first if index == 0 else None
            tokens = run(self._mlp, index, h) if known is None else known
            if served.beside is not None:
                tokens = tokens + served.beside(index, h)
            if seen is not None:
                seen[index + 1] = tokens
        tokens = apart(vit.norm(tokens), views)
        pooled = vit.fc_norm(tokens.mean(1)) if stem.prompts else vit.forward_head(tokens, pre_logits=True)
        return pooled if pooled.dtype == torch.float64 else pooled.float()

    def _weight(self, index: int, served: Serving, views: int) -> Tensor | None:
        """Return the weight that stands for that of a block's attention, one for all images or for each view of one."""
        if served.attention is None:
            return None
        weight = served.attention(index, self.network.blocks[index].attn.qkv.weight)
        return weight.repeat_interleave(views, 0) if weight.ndim == 3 and views > 1 else weight

    def _pool(self, tokens: Tensor) -> Tensor:
        """Return of tokens (B, N, K), made of this ViT's, what features are made of: its class token, or their mean."""
        if self.network.global_pool == "token":
            return tokens[:, 0]
        return tokens[:, self.network.num_prefix_tokens if tokens.shape[1] > 1 else 0 :].mean(1)

    def block_tokens(
        self,
        images: Tensor,
        blocks: int,
        *,
        patches: bool = True,
        until: int | None = None,
        adapters: Adapters | None = None,
    ) -> Tensor:
        """Return what the last `blocks` blocks say of images (B, 3, H, W), side by side (B, 2 D blocks), in float32.

        Of each block that is its class token and the mean of its patch tokens, each token first brought to mean 0 and
        deviation 1; only one of the two without `patches` and for a ViT that has no class token. All blocks are read
        if there are fewer. With `until`, the network ends after so many blocks. `adapters` are as in `features`; those
        that act after all blocks change nothing of these.
        """
        parts = self._token_parts(images, blocks, patches, until, adapters)
        return torch.cat([part.values[:, 0] if part.grid is None else part.values.mean(1) for part in parts], 1)

    def token_parts(self, images: Tensor, blocks: int, *, patches: bool = True) -> list[TokenPart]:
        return self._token_parts(images, blocks, patches, None)

    def _token_parts(
        self, images: Tensor, blocks: int, patches: bool, until: int | None, adapters: Adapters | None = None
    ) -> list[TokenPart]:
        stem, served = self.stem(images), serving(adapters)
        place, tokens, found = self.network.num_prefix_tokens, stem.h, []
        last = until or self.depth
        for index in range(last):
            h = self._attend(index, tokens, stem.rope, weight=self._weight(index, served, 1)) if index else stem.h
            known = stem.first if index == 0 else None
            tokens = self._mlp(index, h) if known is None else known
            if served.beside is not None:
                tokens = tokens + served.beside(index, h)
            if index >= last - blocks:
                level = nn.functional.layer_norm(tokens.float(), tokens.shape[-1:])
                if place:
                    found.append(TokenPart(level[:, :1]))
                if patches or not place:
                    found.append(TokenPart(level[:, place:], tuple(self.network.patch_embed.grid_size)))
        return found

    def read(self, tokens: Tensor, stem: SharedStem) -> Tensor:
        """Return of something of every token (B, m N, K) what belongs to those the features are made of."""
        return beside(apart(tokens, stem.views)[:, self._read(stem)], stem.views)

    def _read(self, stem: SharedStem) -> slice:
        vit = self.network
        if stem.prompts:
            return slice(vit.num_prefix_tokens, vit.num_prefix_tokens + stem.prompts)
        plain = type(vit).forward_head in (vision_transformer.VisionTransformer.forward_head, eva.Eva.forward_head)
        return slice(0, 1) if plain and vit.global_pool == "token" else slice(None)

    def _attend(self, index: int, tokens: Tensor, rope: Any, read: slice = ALL, weight: Tensor | None = None) -> Tensor:
        """Run one block's attention half, for the tokens that are read, under a `weight` of its own or another."""
        block = self.network.blocks[index]
        own = rope[index] if getattr(self.network, "rope_mixed", False) and rope is not None else rope
        return _HALVES[type(block)][0](block, tokens, read, own, weight)

    def _mlp(self, index: int, h: Tensor) -> Tensor:
        """Run one block's MLP half."""
        block = self.network.blocks[index]
        return _HALVES[type(block)][1](block, h)


def _run(half: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return half(*arguments)


def _run_again(half: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Run half a block, and again when gradients pass; it draws no random numbers."""
    return checkpoints.checkpoint(half, *arguments, use_reentrant=False, preserve_rng_state=False)


@cache
def _compiled(backend: str) -> Callable[..., Tensor]:
    """Return `FrozenViT.forward`, compiled: once for all experiences, as their stacks have the same shapes."""
    return torch.compile(FrozenViT.forward, backend=backend, fullgraph=True)
