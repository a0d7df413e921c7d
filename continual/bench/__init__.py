"""Benchmarks from configs, and the command `equimos`."""
