"""Merge rules: several finished adapters become one; one file a rule."""

from continual.registry import Registry

RULES: Registry = Registry("merge rule", __name__)
