"""python -m alter_lib.evaluation --params F [--set key=value ...] [--teacher-only --out results/FILE.json]"""

import argparse
import sys
from pathlib import Path

from ..backbones import load_backbone
from ..common.command_line import Parser, exit_code
from ..params import Params, ParamsError, add_params_arguments, params_from_arguments
from .evaluator import evaluate
from .judge import Judge
from .kept_features import feature_folder
from .our_tables import comparable_tables
from .protocol import load_protocol
from .result import EvaluationResult
from .teacher import Teacher

SHOWN = ("name", "protocol", "method", "steps", "against", "value", "interval", "n", "unit", "batch_size",
         "macs_convention", "extractor")  # fmt: skip


def main(command_line: list[str] | None = None) -> int:
    parser = Parser(prog="python -m alter_lib.evaluation", description="Evaluate a run's artefact.")
    add_params_arguments(parser)
    parser.add_argument("--teacher-only", action="store_true", help="measure the unpruned backbone alone, into --out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON for evaluation.teacher_results")
    arguments = parser.parse_args(command_line)
    if arguments.teacher_only != (arguments.out is not None):
        parser.error("--teacher-only and --out go together")
    return exit_code(lambda: _main(arguments), arguments.debug, "goes on with the images that are there")


def _main(arguments: argparse.Namespace) -> None:
    params = params_from_arguments(arguments)
    if arguments.teacher_only and params.evaluation.protocol != "embedded":
        raise ParamsError(["evaluation.protocol: --teacher-only measures the embedded protocol alone"])
    if arguments.teacher_only:
        measure_teacher(params, arguments.out)
    else:
        show(evaluate(params))


def show(result: EvaluationResult) -> None:
    """The figures, what was missing, and the paper's tables with ours beside them; metrics.json holds all fields."""
    frame = result.frame()[list(SHOWN)].dropna(axis=1, how="all")
    print(*result.notes, frame.to_string(max_colwidth=40, na_rep=""), sep="\n")
    if result.missing:
        print("\nnot there, and so not measured:", result.missing_frame().to_string(index=False), sep="\n")
    for note, table in comparable_tables(result).items():
        print("", note, table.to_string(), sep="\n")


def measure_teacher(params: Params, out: Path) -> None:
    protocol = load_protocol(params)
    judge = Judge(protocol, params.evaluation, params.sampling.seed, feature_folder(params))
    teacher = Teacher(params, load_backbone(params.backbone, cost=params.cost), protocol, judge)
    for steps, measured in teacher.write(out, params.evaluation.teacher_steps).items():
        fid, (low, high) = measured.fid, measured.fid.interval
        what = "real pictures" if steps is None else f"teacher, {steps} steps"
        print(f"{what}: FID-AlexNet {fid.value:.3f} [{low:.3f}, {high:.3f}], N = {fid.n}")


if __name__ == "__main__":
    sys.exit(main())
