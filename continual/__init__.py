"""Continual learning on pretrained ViTs: learners by themselves, and as Avalanche strategies.

Everything here is loaded when it is first used: the learners do not import Avalanche, the strategies do.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load_backbone": "continual.backbones.loading",
    "assemble": "continual.backbones.loading",
    "Backbone": "continual.backbones.loading",
    "IncrementalLearner": "continual.learning.learner",
    "Prediction": "continual.learning.learner",
    "ContinualClassifier": "continual.sklearn",
    "EquimosError": "continual.errors",
    "load": "continual.methods",
    "method": "continual.methods",
    "consolidated": "continual.methods.mos.consolidation",
    "export_onnx": "continual.export.writing",
    "StrataLearner": "continual.methods.strata",
    "MOSLearner": "continual.methods.mos.learner",
    "SimpleCILLearner": "continual.methods.simple_cil",
    "FinetuneLearner": "continual.methods.finetune",
    "JointLearner": "continual.methods.joint",
    # Avalanche strategies
    "MOS": "continual.avalanche.strategy",
    "SimpleCIL": "continual.avalanche.strategy",
    "Finetune": "continual.avalanche.strategy",
    "Joint": "continual.avalanche.strategy",
    "LearnerStrategy": "continual.avalanche.strategy",
    "strategy_for": "continual.avalanche.strategy",
}

__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'continual' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
