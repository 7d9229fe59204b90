"""A learning curve: figures of a run's snapshots by updates of the backbone, into runs/<name>/curve.json.

    python -m alter_lib.evaluation.curve --params params/tiny_sd.yaml --set training.snapshots=[300,600] \
evaluation.curve_images=256

It tells slow convergence and a worse optimum apart. At the first of `evaluation.steps`, on the embedded protocol, at
N = `evaluation.curve_images`: not comparable with figures of another N.
"""

import sys
from dataclasses import replace

from ..backbones import load_backbone
from ..common.command_line import Parser, exit_code
from ..common.files import write_json
from ..inference import load_pipeline
from ..params import Params, ParamsError, add_params_arguments, load_params, params_from_arguments
from ..training.snapshots import load
from .context import with_context
from .cost import cost_metrics
from .generation import generate
from .judge import Judge
from .kept_features import feature_folder
from .methods import ALTER, Method, artefact_folder
from .protocol import load_protocol
from .result import Metric, metrics_as_dicts
from .teacher import image_folder


def evaluate_curve(params: Params) -> list[Metric]:
    """The figures of every snapshot, `updates` in each; interrupted, it goes on with the images that are there.

    Raises ParamsError where the params ask for no curve, FileNotFoundError where artefact or snapshot is missing.
    """
    options = params.evaluation
    if not (options.curve_images and params.training.snapshots):
        raise ParamsError(["evaluation.curve_images: a learning curve needs it and training.snapshots"])
    protocol = load_protocol(load_params(params.dump(), {"evaluation.num_images": options.curve_images}))
    judge = Judge(protocol, options, params.sampling.seed, feature_folder(params))
    backbone = load_backbone(params.backbone, cost=params.cost)
    pipeline = load_pipeline(artefact_folder(params, ALTER), dtype=backbone.denoiser.dtype)
    pipeline.to(backbone.denoiser.device).set_progress_bar_config(disable=True)
    steps, metrics = options.steps[0], []
    for updates in params.training.snapshots:
        plan = load(pipeline, params.run_folder, updates)
        sampler = Method(ALTER, pipeline, (steps,), plan).sampler(params, steps)
        images = generate(sampler, protocol.prompts, image_folder(params), f"curve{updates}-{steps}")
        found = [*judge.measure(images, ALTER, steps).metrics, *cost_metrics(params, backbone, steps, ALTER, plan)]
        metrics += [replace(each, updates=updates) for each in with_context(found, params, backbone, protocol)]
    write_json(params.run_folder / "curve.json", {"metrics": metrics_as_dicts(metrics)})
    return metrics


def main() -> int:
    """Exit codes: 0 done; 2 bad input, one line a fault; 130 interrupted, to go on with the images that are there."""
    parser = Parser(prog="python -m alter_lib.evaluation.curve", description="A learning curve.")
    add_params_arguments(parser)
    options = parser.parse_args()

    def work() -> None:
        for each in evaluate_curve(params_from_arguments(options)):
            if each.name == "fid_alexnet":
                print(f"{each.updates} updates: FID-AlexNet {each.value:.3f}, N = {each.n}")

    return exit_code(work, options.debug, "goes on with the images that are there")


if __name__ == "__main__":
    sys.exit(main())
