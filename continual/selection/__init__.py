"""Selection rules: which images of a class are kept, one file a rule."""

from continual.registry import Registry

RULES: Registry = Registry("selection rule", __name__)
