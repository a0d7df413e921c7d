"""The learner: its settings, state, features, training, and file."""
