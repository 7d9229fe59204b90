"""A plan on a stock diffusers pipeline: put on and taken off, compiled, examined, saved and loaded with its weights.
It needs alter_lib/plan, alter_lib/backbones, alter_lib/skipping.py and diffusers; nothing of training."""

from .artefact import save_pipeline
from .deploy import apply_plan, load_pipeline, remove_plan, warm_up
from .diagnosis import doctor

__all__ = ["apply_plan", "doctor", "load_pipeline", "remove_plan", "save_pipeline", "warm_up"]
