"""python -m alter_lib.evaluation --params F [--set key=value ...] [--teacher-only --out results/FILE.json]"""

import argparse
import sys
from pathlib import Path

from ..assets import AssetError
from ..backbones import load_backbone
from ..params import Params, ParamsError, add_params_arguments, params_from_arguments
from ..plan_file import PlanError
from .evaluator import evaluate
from .judge import Judge
from .protocol import load_protocol
from .teacher import Teacher


def main(command_line: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m alter_lib.evaluation", description="Evaluate a run's artefact.")
    add_params_arguments(parser)
    parser.add_argument("--teacher-only", action="store_true", help="measure the unpruned backbone alone, into --out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON for evaluation.teacher_results")
    arguments = parser.parse_args(command_line)
    if arguments.teacher_only != (arguments.out is not None):
        parser.error("--teacher-only and --out go together")
    try:
        params = params_from_arguments(arguments)
        if arguments.teacher_only:
            measure_teacher(params, arguments.out)
        else:
            result = evaluate(params)
            print(*result.notes, result.frame().to_string(max_colwidth=24), sep="\n")
    except (ParamsError, AssetError, PlanError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure_teacher(params: Params, out: Path) -> None:
    protocol = load_protocol(params)
    judge = Judge(protocol, params.evaluation, params.sampling.seed)
    teacher = Teacher(params, load_backbone(params.backbone, cost=params.cost), protocol, judge)
    for steps, measured in teacher.write(out, params.evaluation.teacher_steps).items():
        fid, (low, high) = measured.fid, measured.fid.interval
        what = "real pictures" if steps is None else f"teacher, {steps} steps"
        print(f"{what}: FID-AlexNet {fid.value:.3f} [{low:.3f}, {high:.3f}], N = {fid.n}")


if __name__ == "__main__":
    sys.exit(main())
