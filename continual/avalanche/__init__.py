"""Learners as Avalanche strategies, and Avalanche's strategies as learners."""
