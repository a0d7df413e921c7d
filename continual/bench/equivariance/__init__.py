"""The command `equimos equivariance`: check, tune and evaluate. In `continual`, `equivariant` is imported here only."""
