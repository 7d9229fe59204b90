"""Figures: each function takes data and, where one panel or a fixed number of panels make it up, axes; it returns them
and never shows anything."""

from .evaluation import call_seconds, image_grid, image_rows, quality_against_macs, side_by_side
from .hypernetworks import estimator_gradients, ratio_trials, sampling_constants
from .layers import layer_macs
from .plans import experts, macs_per_timestep, mask_distances, masks, overview, routing
from .style import Saved, png, save
from .training import live_curves, throughput, training_curves

__all__ = [
    "Saved", "call_seconds", "estimator_gradients", "experts", "image_grid", "image_rows", "layer_macs", "live_curves",
    "macs_per_timestep", "mask_distances", "masks", "overview", "png", "quality_against_macs", "ratio_trials",
    "routing", "sampling_constants", "save", "side_by_side", "throughput", "training_curves",
]  # fmt: skip
