"""One flat dataclass per stage: its fields are the Python API, the command line, the YAML presets and the manifest.

The `help` of a field is its documentation; nothing is described twice.
"""

from __future__ import annotations

from decoct.config.ablate import ABLATION_TABLES, AblateConfig, CompareConfig
from decoct.config.data import DataConfig, RunConfig
from decoct.config.distill import DistillConfig, default_values
from decoct.config.effect import distill_without_effect, require_effect, without_effect
from decoct.config.evaluate import LABEL_MODES, EvaluateConfig
from decoct.config.explore import ExploreConfig
from decoct.config.importing import ImportConfig
from decoct.config.options import (
    check_choice,
    check_choices,
    config_hash,
    fields_that_matter_for,
    option,
    require,
    to_dict,
    values_for,
)
from decoct.config.publishing import PublishConfig, PublishingConfig, VerifyConfig
from decoct.config.sampling import SampleConfig, SamplingConfig
from decoct.config.study import BetaStudyConfig, InformationConfig
from decoct.config.training import EstimatorConfig, PriorConfig, TeacherConfig, TrainingConfig
from decoct.config.whole import WholeConfig

__all__ = [
    "ABLATION_TABLES",
    "LABEL_MODES",
    "AblateConfig",
    "BetaStudyConfig",
    "CompareConfig",
    "DataConfig",
    "DistillConfig",
    "EstimatorConfig",
    "EvaluateConfig",
    "ExploreConfig",
    "ImportConfig",
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
    "WholeConfig",
    "check_choice",
    "check_choices",
    "config_hash",
    "default_values",
    "distill_without_effect",
    "fields_that_matter_for",
    "option",
    "require",
    "require_effect",
    "to_dict",
    "values_for",
    "without_effect",
]
