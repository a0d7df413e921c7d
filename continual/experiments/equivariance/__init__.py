"""Studies of the package `equivariant` on any classifier."""
