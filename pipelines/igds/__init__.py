"""IGDS as a diffusers pipeline, as a callback or an attachment of others, and around text-to-image pipelines."""

from .guidance import InformationGuidance
from .pipeline import IGDSPipeline, IGDSPipelineOutput
from .text_to_image import FlaggedImages, TextToImagePrior

__all__ = ["FlaggedImages", "IGDSPipeline", "IGDSPipelineOutput", "InformationGuidance", "TextToImagePrior"]
