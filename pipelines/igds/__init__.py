"""IGDS as a diffusers pipeline."""

from .guidance import InformationGuidance
from .pipeline import IGDSPipeline, IGDSPipelineOutput

__all__ = ["IGDSPipeline", "IGDSPipelineOutput", "InformationGuidance"]
