"""Backbones: diffusers pipelines, their prunable layers and what those cost."""

from .architecture import architecture_hash
from .base import ADAPTERS, TIMESTEP_EMBEDDINGS, Backbone, PrunableLayer, denoiser_of, feature_points, wrap
from .loading import load_backbone

__all__ = ["ADAPTERS", "TIMESTEP_EMBEDDINGS", "Backbone", "PrunableLayer", "architecture_hash", "denoiser_of",
           "feature_points", "load_backbone", "wrap"]  # fmt: skip
