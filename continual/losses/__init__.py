"""Loss terms of a training, one file a term."""

from continual.registry import Registry

TERMS: Registry = Registry("loss term", __name__)
