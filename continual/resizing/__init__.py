"""Backbones made of another one: smaller (compressed), or wider and deeper (grown)."""
