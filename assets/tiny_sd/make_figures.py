"""Shows what the pretraining reached: loss_curve.png, sample_grid.png and, over the kept snapshots, fid_curve.csv.

    python assets/tiny_sd/make_figures.py [--num-images 500]

FID-AlexNet of each snapshot (every 1000 steps, moving-average weights) on the protocol of `alter_lib.evaluation`, with
the real/real floor at the same N in the last row.
"""

import argparse
import csv
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from make_common import STATE
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tqdm.auto import tqdm

from alter_lib import load_params
from alter_lib.evaluation.features import image_features
from alter_lib.evaluation.generation import Sampler
from alter_lib.evaluation.metrics import Moments, frechet_distance
from alter_lib.evaluation.protocol import load_protocol

HERE = Path(__file__).parent
PROMPTS = (
    "red apple",
    "ghost",
    "pizza",
    "dog face",
    "panda",
    "red heart",
    "snowman",
    "taxi",
    "house",
    "umbrella",
    "sunflower",
    "banana",
    "soccer ball",
    "guitar",
    "key",
    "mushroom",
    "penguin",
    "octopus",
    "airplane",
    "crown",
    "cactus",
    "basketball",
    "smiling face with sunglasses",
    "full moon",
)


def with_weights(pipeline: StableDiffusionPipeline, snapshot: Path) -> StableDiffusionPipeline:
    weights = {name: value.float() for name, value in load_file(snapshot).items()}
    torch.nn.ModuleList([pipeline.unet, pipeline.text_encoder]).load_state_dict(weights, strict=False)
    return pipeline


def sample_grid(pipeline: StableDiffusionPipeline, sampling: object) -> Figure:
    images = Sampler(pipeline, sampling, 25).draw(PROMPTS, range(len(PROMPTS)))
    figure = Figure((9.6, 5.4), layout="constrained")
    for axis, image, prompt in zip(figure.subplots(4, 6).flat, images, PROMPTS, strict=True):
        axis.imshow(image)
        axis.set_title(prompt, fontsize=7)
        axis.axis("off")
    return figure


def loss_curve() -> Figure:
    with (HERE / "denoiser_log.csv").open() as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    figure = Figure((6, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*rows, strict=True), color="#0072B2")
    axis.set(xlabel="step (batch 64)", ylabel="v-prediction MSE, mean of 250 steps", yscale="log")
    axis.grid(alpha=0.3, which="both")
    return figure


def fid_curve(pipeline: StableDiffusionPipeline, params: object) -> list[tuple[str, float]]:
    protocol = load_protocol(params)
    reference, prompts = Moments.of(image_features(protocol.reference)), protocol.prompts
    rows = []
    for snapshot in tqdm(sorted((STATE / "snapshots").glob("*.safetensors")), desc="snapshots"):
        sampler = Sampler(with_weights(pipeline, snapshot), params.sampling, params.sampling.steps)
        batches = torch.arange(len(prompts)).split(params.sampling.batch_size)
        features = [image_features(sampler.draw(prompts, batch.tolist())) for batch in batches]
        rows.append((snapshot.stem.lstrip("0"), distance(reference, features)))
    return [*rows, ("real", distance(reference, [image_features(protocol.real)]))]


def distance(reference: Moments, features: list) -> float:
    return frechet_distance(reference, Moments.of(torch.cat([torch.from_numpy(f) for f in features]).numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--no-fid", action="store_true")
    options = parser.parse_args()
    params = load_params("params/tiny_sd.yaml", {"evaluation.num_images": options.num_images})
    pipeline = StableDiffusionPipeline.from_pretrained(HERE, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    loss_curve().savefig(HERE / "loss_curve.png", dpi=110)
    sample_grid(pipeline, params.sampling).savefig(HERE / "sample_grid.png", dpi=110)
    if not options.no_fid:
        with (HERE / "fid_curve.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", f"fid_alexnet_n{options.num_images}"), *fid_curve(pipeline, params)])


if __name__ == "__main__":
    main()
