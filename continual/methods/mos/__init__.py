"""MOS: model surgery (AAAI 2025)."""

from continual.methods.mos.learner import MOSLearner as MOSLearner
