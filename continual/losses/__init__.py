"""Loss terms of a training, one file a term."""
