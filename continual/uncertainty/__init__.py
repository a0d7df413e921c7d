"""Calibrated probabilities, and how unlike all known images an image is."""
