"""The command `equimos`."""
