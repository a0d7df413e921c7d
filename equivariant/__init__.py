"""Exactly equivariant wrappers around any pretrained vision model."""
