"""What `continual` offers: the one list of its public names, each loaded from its module when it is first used."""

from continual.adapters.base import AdapterKind as AdapterKind
from continual.avalanche.selecting import PoolSelection as PoolSelection
from continual.avalanche.strategy import MOS as MOS
from continual.avalanche.strategy import Finetune as Finetune
from continual.avalanche.strategy import Joint as Joint
from continual.avalanche.strategy import LearnerStrategy as LearnerStrategy
from continual.avalanche.strategy import SimpleCIL as SimpleCIL
from continual.avalanche.strategy import strategy_for as strategy_for
from continual.backbones.loading import Backbone as Backbone
from continual.backbones.loading import assemble as assemble
from continual.backbones.loading import load_backbone as load_backbone
from continual.backbones.loading import save_backbone as save_backbone
from continual.errors import EquimosError as EquimosError
from continual.experiments.frames import read_runs as read_runs
from continual.explaining.explain import explain as explain
from continual.export.writing import export_onnx as export_onnx
from continual.learning.answers import Prediction as Prediction
from continual.learning.concept import Concept as Concept
from continual.learning.learner import IncrementalLearner as IncrementalLearner
from continual.learning.merged import merged as merged
from continual.learning.pool import select as select
from continual.lifecycle.hub import from_hub as from_hub
from continual.lifecycle.hub import push_to_hub as push_to_hub
from continual.losses.base import LossTerm as LossTerm
from continual.methods import load as load
from continual.methods import method as method
from continual.methods.aper import APERLearner as APERLearner
from continual.methods.bases.first_adapter import FirstAdapterSettings as FirstAdapterSettings
from continual.methods.ease import EASELearner as EASELearner
from continual.methods.ease import EASESettings as EASESettings
from continual.methods.fecam import FeCAMLearner as FeCAMLearner
from continual.methods.finetune import FinetuneLearner as FinetuneLearner
from continual.methods.finetune import FinetuneSettings as FinetuneSettings
from continual.methods.joint import JointLearner as JointLearner
from continual.methods.joint import JointSettings as JointSettings
from continual.methods.l2p import L2PLearner as L2PLearner
from continual.methods.l2p import L2PSettings as L2PSettings
from continual.methods.mos.consolidation import consolidated as consolidated
from continual.methods.mos.learner import MOSLearner as MOSLearner
from continual.methods.mos.settings import MOSSettings as MOSSettings
from continual.methods.ranpac import RanPACLearner as RanPACLearner
from continual.methods.ranpac import RanPACSettings as RanPACSettings
from continual.methods.ridge import RidgeLearner as RidgeLearner
from continual.methods.simple_cil import SimpleCILLearner as SimpleCILLearner
from continual.methods.slca import SLCALearner as SLCALearner
from continual.methods.slca import SLCASettings as SLCASettings
from continual.methods.strata import StrataLearner as StrataLearner
from continual.methods.strata import StrataSettings as StrataSettings
from continual.methods.tuna import TUNALearner as TUNALearner
from continual.resizing.compressing import compressed as compressed
from continual.resizing.growing import grown as grown
from continual.sklearn import ContinualClassifier as ContinualClassifier

__version__: str
__all__: list[str]
