"""Continual learning on pretrained ViTs: learners by themselves, and as Avalanche strategies.

Everything here is loaded when it is first used: the learners do not import Avalanche, the strategies do.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load_backbone": "continual.backbones",
    "assemble": "continual.backbones",
    "Backbone": "continual.backbones",
    "IncrementalLearner": "continual.learner",
    "Prediction": "continual.learner",
    "ContinualClassifier": "continual.classifier",
    "EquimosError": "continual.errors",
    "load": "continual.methods",
    "method": "continual.methods",
    "consolidated": "continual.consolidation",
    "export_onnx": "continual.export.writing",
    "StrataLearner": "continual.methods.strata",
    "MOSLearner": "continual.methods.mos",
    "SimpleCILLearner": "continual.methods.simple_cil",
    "FinetuneLearner": "continual.methods.finetune",
    "JointLearner": "continual.methods.joint",
    # Avalanche strategies
    "MOS": "continual.avalanche_plugin",
    "SimpleCIL": "continual.avalanche_plugin",
    "Finetune": "continual.avalanche_plugin",
    "Joint": "continual.avalanche_plugin",
    "LearnerStrategy": "continual.avalanche_plugin",
    "strategy_for": "continual.avalanche_plugin",
}

__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'continual' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
