"""One file a kind of input: each has `cases(seed, materials)`, which yields cases without end, see `corpus`."""
