"""Answers that do not change when an image is rotated or mirrored, one file a kind.

An image's *views* are what a finite group makes of it. A learner with a `group` learns from single views, and answers
with the weighted mean of several views' features, so chosen and in such an order that all views of an image get the
same answer to the bit, f(g·x) = f(x). Kinds differ in which views are looked at, and in how they count.
"""

from continual.registry import Registry

#: what the setting `symmetry` may be
KINDS: Registry = Registry("symmetry", __name__)
