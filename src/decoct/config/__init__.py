"""One flat dataclass per stage: its fields are the Python API, the command line, the YAML presets and the manifest.

The `help` of a field is its documentation; nothing is described twice.
"""

from __future__ import annotations

from decoct.config.ablate import ABLATION_TABLES, AblateConfig, CompareConfig
from decoct.config.data import DataConfig, RunConfig
from decoct.config.distill import SELECTION_FIELDS, DistillConfig
from decoct.config.evaluate import LABEL_MODES, EvaluateConfig
from decoct.config.options import check_choices, config_hash, option, require, to_dict
from decoct.config.publishing import PUBLISHING_FIELDS, PublishConfig, PublishingConfig, VerifyConfig
from decoct.config.sampling import SAMPLING_FIELDS, SampleConfig, SamplingConfig
from decoct.config.study import BetaStudyConfig, InformationConfig
from decoct.config.training import EstimatorConfig, PriorConfig, TeacherConfig, TrainingConfig

__all__ = [
    "ABLATION_TABLES",
    "LABEL_MODES",
    "PUBLISHING_FIELDS",
    "SAMPLING_FIELDS",
    "SELECTION_FIELDS",
    "AblateConfig",
    "BetaStudyConfig",
    "CompareConfig",
    "DataConfig",
    "DistillConfig",
    "EstimatorConfig",
    "EvaluateConfig",
    "InformationConfig",
    "PriorConfig",
    "PublishConfig",
    "PublishingConfig",
    "RunConfig",
    "SampleConfig",
    "SamplingConfig",
    "TeacherConfig",
    "TrainingConfig",
    "VerifyConfig",
    "check_choices",
    "config_hash",
    "option",
    "require",
    "to_dict",
]
