"""Detectors made equivariant: images of any shape in a list, and what is found in each as a dict."""
