"""Frozen timm networks: loaded, checked, and read."""
