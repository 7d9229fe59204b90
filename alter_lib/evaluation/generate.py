"""Draw the images of an evaluation, in one process or several; `evaluate` then finds them.

    python -m alter_lib.evaluation.generate --params params/sd21.yaml --method alter teacher
    accelerate launch --multi_gpu --num_processes 8 -m alter_lib.evaluation.generate --params params/sd21.yaml
    torchrun --nproc_per_node 2 -m alter_lib.evaluation.generate --params F      # CPUs: accelerate starts one process
    python -m alter_lib.evaluation.generate --params F --method alter --steps 250 --adm-npz samples.npz

Image i starts from the same noise whatever the batch size, the number of processes or an interruption.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from ..backbones import load_backbone
from ..common.command_line import Parser, exit_code
from ..params import Params, ParamsError, add_params_arguments, params_from_arguments
from ..training.accelerator import process_state
from .adm import COMMAND, write_adm
from .at_scale import baselines_at_hand
from .generation import draw_missing
from .image_store import ImageSet
from .methods import ALTER, TEACHER, open_method
from .prompts import load_prompts
from .protocol import load_protocol


def conditions(params: Params, save: bool) -> tuple[list[str] | list[int], Path]:
    """What each image is drawn from, and the folder that it goes to. save: write the prompt list, too."""
    folder = params.run_folder / "evaluation"
    if params.evaluation.protocol == "embedded":
        return list(load_protocol(params).prompts), folder
    prompts = load_prompts(params.evaluation)
    if save:
        prompts.save(folder / f"prompts-{prompts.protocol}.json")
    return prompts.repeated(params.evaluation.images_per_prompt), folder / prompts.protocol


def at_hand(params: Params, say: bool) -> list[str]:
    """All methods of the params, less the baselines that are not there. say: one line for each of those."""
    found, missing = baselines_at_hand(params)
    for each in missing if say else ():
        print(f"{each.metrics[0]}: not drawn, needs {each.what} at {each.put}", file=sys.stderr)
    return [TEACHER, ALTER, *params.evaluation.controls, *found]


def draw(params: Params, names: Sequence[str], steps: Sequence[int], processes: PartialState) -> list[ImageSet]:
    """Draw what is missing of the methods `names` (none: all that are there) at `steps` (none: the params')."""
    known = (TEACHER, ALTER, *params.evaluation.controls, *params.evaluation.baselines)
    if unknown := [name for name in names if name not in known]:
        raise ParamsError([f"--method: {unknown[0]} is not one of {', '.join(known)}"])
    prompts, folder = conditions(params, processes.is_main_process)
    backbone, sets = load_backbone(params.backbone, device=str(processes.device), cost=params.cost), []
    for name in names or at_hand(params, processes.is_main_process):
        method = open_method(params, backbone, name)
        for s in steps or method.steps:
            store = method.store(params, prompts, folder, s)
            draw_missing(method.sampler(params, s), prompts, store, f"{name}-{s}", processes=processes)
            sets.append(ImageSet(store, len(prompts)))
    return sets


def main(command_line: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m alter_lib.evaluation.generate",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_params_arguments(parser)
    parser.add_argument("--method", nargs="+", default=[], metavar="NAME", help="teacher, alter, a control or baseline")
    parser.add_argument("--steps", nargs="+", type=int, default=[], metavar="N", help="default: those of the params")
    parser.add_argument("--adm-npz", type=Path, metavar="FILE", help="write arr_0 for the ADM evaluator, of one set")
    arguments = parser.parse_args(command_line)
    if arguments.adm_npz and (len(arguments.method), len(arguments.steps)) != (1, 1):
        parser.error("--adm-npz takes one --method and one of --steps")
    return exit_code(lambda: _main(arguments), arguments.debug, "goes on with the images that are there")


def _main(arguments: argparse.Namespace) -> None:
    params = params_from_arguments(arguments)
    processes = process_state(params)
    sets = draw(params, arguments.method, arguments.steps, processes)
    if processes.is_main_process:
        for images in sets:
            print(f"{len(images)} images in {images.store.home}")
        if arguments.adm_npz:
            write_adm(sets[0], arguments.adm_npz)
            print(f"{arguments.adm_npz}: score it by {COMMAND.format(arguments.adm_npz)}")
    if processes.num_processes > 1:
        processes.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
