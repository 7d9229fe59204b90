"""Schema and loading of params/*.yaml: one level of sections, every value checked before anything runs.

    params = load_params("params/tiny_sd.yaml", {"training.steps": 100})
    params.training.steps, params.run_folder

Where the paper prints a value it is the default here; where it is silent the files in params/ say why they choose.
"""

from .arguments import add_params_arguments, params_from_arguments, parse_overrides
from .data import Data
from .errors import ParamsError
from .evaluation import Evaluation
from .loading import Params, load_params
from .paths import DEFAULT, ROOT, resolve
from .sections import BackboneParams, Cost, HypernetworkParams, Loss, Run, Sampling
from .training import Training

__all__ = [
    "BackboneParams", "Cost", "DEFAULT", "Data", "Evaluation", "HypernetworkParams", "Loss", "Params", "ParamsError",
    "ROOT", "Run", "Sampling", "Training", "add_params_arguments", "load_params", "params_from_arguments",
    "parse_overrides", "resolve",
]  # fmt: skip
