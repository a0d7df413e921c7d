"""Any pretrained vision model made exactly equivariant to rotations, mirrors or channel permutations.

    features, head = take_off_head(model)                        # any classifier
    model = LambdaEquitune(features, "C4", head=head)            # its answer ignores rotations by 90°
    assert_equivariant(model, "C4", images)                      # and you can check it

Wrappers take any module, any group (`as_group`) and any representation of the output (`Trivial`, `Maps`, `Tokens`, …).
`tune` fine-tunes them; `equivariance_report`, `orbit_consistency` and `orbit_flip_rate` check any model.
"""

from equivariant.actions import Action, Colours, Images, Maps, Masks, Regular, Tokens, Trivial, VectorField, act
from equivariant.checks.equivariance import (
    action_error,
    assert_equivariant,
    equivariance_error,
    orbit_answers,
    orbit_consistency,
    orbit_flip_rate,
)
from equivariant.checks.evaluation import Evaluation, evaluate
from equivariant.checks.report import EquivarianceReport, equivariance_report
from equivariant.colours import Colour
from equivariant.coordinates import Boxes, Keypoints
from equivariant.detection.detector import EquivariantDetector
from equivariant.errors import EquivariantError, GroupError, InputError
from equivariant.groups import (
    FiniteGroup,
    as_group,
    channel_cycle,
    channel_permutations,
    cyclic,
    dihedral,
    from_generators,
    hue,
    mirror_h,
    mirror_v,
    negative,
)
from equivariant.motions import Motion
from equivariant.orbits import align, orbit
from equivariant.parts.cutting import StagedChain, StagedRotaryViT, staged
from equivariant.parts.networks import FeatureScore, ImageScore
from equivariant.parts.proxies import Similarity, entropy, margin, max_probability
from equivariant.parts.staged import Staged, StagedPair, StagedViT
from equivariant.parts.surgery import take_off_head, wrap_module
from equivariant.parts.tiled import Tiled
from equivariant.tuning.distillation import distil_orbit
from equivariant.tuning.heads import fit_head
from equivariant.tuning.penalty import equivariance_loss
from equivariant.tuning.recipes import Recipe, Stage
from equivariant.tuning.result import TuningResult
from equivariant.tuning.tune import tune
from equivariant.wrappers.anytime_orbit import AnytimeOrbit
from equivariant.wrappers.base import OrbitWrapper, WeightedWrapper
from equivariant.wrappers.canonicaliser import Canonicaliser
from equivariant.wrappers.equitune import Equitune
from equivariant.wrappers.equizero import Equizero
from equivariant.wrappers.lambda_equitune import LambdaEquitune
from equivariant.wrappers.max_pooling import OrbitMax
from equivariant.wrappers.pruned_orbit import PrunedOrbit

__all__ = [
    "Action", "AnytimeOrbit", "Boxes", "Canonicaliser", "Colour", "Colours", "Equitune", "EquivarianceReport",
    "EquivariantDetector", "EquivariantError", "Equizero", "Evaluation", "FeatureScore", "FiniteGroup", "GroupError",
    "ImageScore", "Images", "InputError", "Keypoints", "LambdaEquitune", "Maps", "Masks", "Motion", "OrbitMax",
    "OrbitWrapper", "PrunedOrbit", "Recipe", "Regular", "Similarity", "Stage", "Staged", "StagedChain", "StagedPair",
    "StagedRotaryViT", "StagedViT", "Tiled", "Tokens", "Trivial", "TuningResult", "VectorField", "WeightedWrapper",
    "act", "action_error", "align", "as_group", "assert_equivariant", "channel_cycle", "channel_permutations", "cyclic",
    "dihedral", "distil_orbit", "entropy", "equivariance_error", "equivariance_loss", "equivariance_report", "evaluate",
    "fit_head", "from_generators", "hue", "margin", "max_probability", "mirror_h", "mirror_v", "negative", "orbit",
    "orbit_answers", "orbit_consistency", "orbit_flip_rate", "staged", "take_off_head", "tune", "wrap_module",
]  # fmt: skip
