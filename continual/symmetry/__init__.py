"""Answers that do not change when an image is rotated or mirrored, one file a kind."""
