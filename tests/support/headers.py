"""The header of a model file as it should be, to be changed in one place."""

from __future__ import annotations

from typing import Any

from continual.documents import merged


def header(**changes: Any) -> dict[str, Any]:
    """Return the JSON values of a model file of two classes, with some changed, at any depth."""
    values = {
        "method": "simple_cil",
        "settings": {},
        "backbone": {
            "name": "vit_tiny_patch16_224",
            "model_args": {"img_size": 16},
            "weights_file": None,
            "sha256": "0" * 64,
            "preprocessing": {
                "size": [16, 16],
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "interpolation": "bicubic",
                "crop_pct": 0.9,
                "crop_scale": [0.05, 1.0],
                "mirror": True,
                "augment": True,
            },
        },
        "backbone_embedded": False,
        "state": {"classes": ["ä", "b"], "class_experience": [0, 0], "experiences": 1, "updates": 1},
        "versions": {},
        "notes": {},
    }
    return merged(values, changes)
