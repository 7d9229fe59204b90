"""Figures: each function takes data and an optional `ax` (axes, where a fixed number of panels make it up) and returns
what it drew on; it never shows anything. Drawings of many panels put a subfigure in the place of `ax`."""

from .ablations import (
    EXPERTS,
    RATIO_WEIGHTS,
    RATIOS,
    by_variant,
    capacity,
    distillation_errors,
    fid_against_macs,
    kept_layers,
    learning_curves,
    ordering,
    trend,
)
from .evaluation import call_seconds, image_grid, image_rows, quality_against_macs, side_by_side
from .evolution import dashboard, mask_evolution, routing_evolution
from .hypernetworks import estimator_gradients, ratio_trials, sampling_constants
from .layers import layer_macs
from .plans import experts, macs_per_timestep, mask_distances, masks, overview, plan_pair, routing
from .runs import expert_counts, latency_bars, quality_front
from .speed import speedup_panels, speedups
from .style import Saved, png, save
from .training import loss_comparison, throughput, training_curves

__all__ = [
    "EXPERTS", "RATIOS", "RATIO_WEIGHTS", "Saved", "by_variant", "call_seconds", "capacity", "dashboard",
    "distillation_errors", "estimator_gradients", "expert_counts", "experts", "fid_against_macs", "image_grid",
    "image_rows", "kept_layers", "latency_bars", "layer_macs", "learning_curves", "loss_comparison",
    "macs_per_timestep", "mask_distances", "mask_evolution", "masks", "ordering", "overview", "plan_pair", "png",
    "quality_against_macs", "quality_front", "ratio_trials", "routing", "routing_evolution", "sampling_constants",
    "save", "side_by_side", "speedup_panels", "speedups", "throughput", "training_curves", "trend",
]  # fmt: skip
