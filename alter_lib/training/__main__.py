"""Algorithm 1, from the first step or the last checkpoint to the artefact.

python -m alter_lib.training --params params/tiny_sd.yaml --set training.steps=200
accelerate launch --multi_gpu --num_processes 2 -m alter_lib.training --params params/tiny_sd.yaml   # on CPUs too
"""

import argparse
import os
import sys
from contextlib import nullcontext

from ..common.command_line import Parser, exit_code
from ..params import add_params_arguments, params_from_arguments
from ..run_folder.changed_params import make_way
from ..run_folder.lock import locked
from .loop import train
from .plan_history import PlanRecorder


def main() -> int:
    """Exit codes: 0 done; 1 failed; 2 bad input, one line a fault; 130 interrupted, with a checkpoint to go on from."""
    parser = Parser(prog="python -m alter_lib.training", description="Algorithm 1.")
    add_params_arguments(parser)
    parser.add_argument("--force", action="store_true", help="set a run with other params aside and start anew")
    options = parser.parse_args()
    return exit_code(lambda: _main(options), options.debug, "goes on from the last checkpoint")


def _main(options: argparse.Namespace) -> None:
    params, is_first = params_from_arguments(options), os.environ.get("RANK", "0") == "0"
    if is_first:
        make_way(params, options.force)
    with locked(params.run_folder, "run") if is_first else nullcontext():
        result = train(params, PlanRecorder(params))
    if is_first:
        ratio, seconds = result.plan.achieved_ratio, result.seconds
        print(f"{result.steps} steps, ratio {ratio:.4f}, {seconds:.0f} s: {result.artefact}")


if __name__ == "__main__":
    sys.exit(main())
