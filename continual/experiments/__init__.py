"""Benchmark runs: configs, cells, results, reports."""
