"""Diffusers pipelines; each folder stands alone and works as a `custom_pipeline`."""
