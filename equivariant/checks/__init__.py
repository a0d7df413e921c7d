"""Is a model equivariant, how stable is it, and where is it lost."""
