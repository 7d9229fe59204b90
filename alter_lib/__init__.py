"""ALTER: layer pruning and temporal expert routing for diffusion models (Yang et al., NeurIPS 2025, arXiv 2505.21817).

Public names are loaded on first use (PEP 562), so that `import alter_lib` costs nothing and params need no torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Params": "params",
    "ParamsError": "params",
    "load_params": "params",
    "Backbone": "backbones",
    "load_backbone": "backbones",
    "Hypernetwork": "hypernetwork",
    "ExpertPlan": "plan",
    "PlanError": "plan",
    "apply_plan": "inference",
    "remove_plan": "inference",
    "warm_up": "inference",
    "save_pipeline": "inference",
    "load_pipeline": "inference",
    "doctor": "inference",
    "train": "training.loop",
    "evaluate": "evaluation",
}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'alter_lib' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
