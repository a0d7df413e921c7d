"""Adapters: small trainable parts of a frozen ViT, one file a kind, and the bank that serves them."""

from continual.registry import Registry

KINDS: Registry = Registry("adapter", __name__)
