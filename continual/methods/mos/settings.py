"""The numbers of MOS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from continual import merging
from continual.learning.settings import AdapterSettings
from continual.merging.base import check_settings
from continual.methods.bases.alignment import AlignmentSettings
from continual.registry import Registry
from continual.statistics.class_statistics import Kind


class MOSSettings(AdapterSettings, AlignmentSettings):
    """Numbers of MOS; the fields not listed in a preset keep the defaults shown here."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"merge": "step", "alpha": 0.1, "consolidate": None, "feature_contrast": 0.0, "statistics": "full"},
        "reference": {
            "merge": "per_forward", "alpha": 0.1, "consolidate": "mean", "feature_contrast": 0.1, "statistics": "full",
        },
    }  # fmt: skip

    at_inference = AdapterSettings.at_inference | {"early_exit", "within"}
    at_training = AdapterSettings.at_training | AlignmentSettings.at_training
    named: ClassVar[Mapping[str, Registry]] = {
        **AdapterSettings.named, "anchor": merging.RULES, "consolidate": merging.RULES
    }  # fmt: skip

    # A twentieth of a full covariance at D = 768, and no worse where it was measured; exact up to 33 images per class.
    statistics: Kind = Field("low_rank", description="what is remembered of a class")
    statistics_components: int = Field(32, ge=1, description="directions of low_rank, centres of centroids")

    merge: Literal["step", "per_forward"] = Field("step", description="once a step (the paper), or as its code does")
    alpha: float = Field(0.1, ge=0, le=1, description="merging strength; 0 switches it off")
    anchor: str = Field("mean", description="rule by which finished adapters become what is merged towards")
    anchor_args: dict[str, Any] = Field(default_factory=dict, description="settings of that rule")
    consolidate: str | None = Field(
        None, description="at inference, replace adapter k >= 2 by a merge of those before it, by this rule: mean"
    )
    feature_contrast: float = Field(0.0, ge=0, description="weight of pushing features apart; the published code: 0.1")
    contrast_temperature: float = Field(0.8, gt=0)
    stage_one: Literal["prototypes", "ridge"] = Field(
        "prototypes", description="what finds the experience: the nearest prototype under the first adapter, whose "
        "choice the head refines, or strata's ridge regression, whose answer it may refine within the experience"
    )  # fmt: skip
    regressed: Literal["first", "frozen"] = Field(
        "first", description="with stage_one=ridge: tokens under the first adapter, or those without an adapter"
    )
    within: float = Field(
        0.0,
        ge=0,
        description="with stage_one=ridge: what the head counts for within the experience that was found. With 0 no "
        "answer asks adapters after the first, or the aligned head: they are trained for a `within` that is set later",
    )
    retrieval_rounds: int = Field(4, ge=1, description="most adapters tried for one image; with stage_one=ridge, one")
    ensemble: bool = Field(True, description="with stage_one=prototypes: add stage one's scores to the head's")
    retrieved_views: int = Field(1, ge=1, description="with a group: on how many views a retrieved adapter is run")
    early_exit: float | None = Field(
        None, ge=0, lt=1, description="answer without another pass where that is sure; the share of drawn features "
        "that may be answered otherwise decides what is sure (0.005, say)"
    )  # fmt: skip

    @model_validator(mode="after")
    def _known_anchor_args(self) -> MOSSettings:
        check_settings(self.anchor, self.anchor_args)
        return self

    @model_validator(mode="after")
    def _one_shortcut(self) -> MOSSettings:
        if self.early_exit is not None and self.consolidate is not None:
            raise ValueError("early_exit predicts the adapters as they were finished: leave consolidate out, or it")
        if self.early_exit is not None and self.stage_one == "ridge":
            raise ValueError("early_exit predicts what prototypes retrieve: leave it out with stage_one='ridge'")
        return self
