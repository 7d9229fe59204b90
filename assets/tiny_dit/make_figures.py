"""Shows what the pretraining reached: loss_curve.png, sample_grid.png and, over the kept snapshots, fid_curve.csv.

    python assets/tiny_dit/make_figures.py [--num-images 500] [--steps 20] [--every 4] [--no-fid]

Samples are drawn by DiTPipeline's own procedure (DDIM, guidance 1.5 on all latent channels) or, with
`--learned-variance`, by the DiT repository's (DDPM with the learned variance, 1.5 on three channels). FID-AlexNet of
each snapshot against the training pictures, class accuracy by assets/fashion_classifier; the last row is the floor: as
many pictures of the test split. Classes are equally frequent in every set.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTPipeline
from make_common import STATE
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tqdm.auto import tqdm

from alter_lib.data import fashion
from alter_lib.evaluation.features import classify, image_features
from alter_lib.evaluation.generation import Sampler
from alter_lib.evaluation.metrics import Moments, frechet_distance
from alter_lib.params import Sampling

HERE = Path(__file__).parent
COLUMNS, BATCH = 6, 100


def draw(pipeline: DiTPipeline, sampling: Sampling, count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, 32, 32, 3] and their labels, which run 0, 1, ..., 9, 0, ..."""
    labels = np.arange(count) % len(fashion.CLASSES)
    sampler = Sampler(pipeline, sampling, sampling.steps)
    batches = [sampler.draw(labels.tolist(), batch.tolist()) for batch in torch.arange(count).split(BATCH)]
    return np.concatenate(batches), labels


def class_accuracy(images: np.ndarray, labels: np.ndarray) -> float:
    return float((classify(images)[0].argmax(1) == labels).mean())


def with_weights(pipeline: DiTPipeline, snapshot: Path) -> DiTPipeline:
    """A snapshot holds one copy of the embedder, block 0's, for all blocks."""
    weights = {name: value.float() for name, value in load_file(snapshot).items()}
    blocks, own = pipeline.transformer.transformer_blocks, "transformer_blocks.0.norm1.emb."
    shared = {name.removeprefix(own): value for name, value in weights.items() if name.startswith(own)}
    pipeline.transformer.load_state_dict(weights, strict=False)
    for block in blocks:
        block.norm1.emb.load_state_dict(shared)
    return pipeline


def sample_grid(images: np.ndarray) -> Figure:
    """A row a class; images of `draw`."""
    figure = Figure((5.2, 8.4), layout="constrained")
    axes = figure.subplots(len(fashion.CLASSES), COLUMNS)
    for i, image in enumerate(images):
        column, row = divmod(i, len(fashion.CLASSES))
        axes[row, column].imshow(image)
        axes[row, column].axis("off")
    for axis, name in zip(axes[:, 0], fashion.CLASSES, strict=True):
        axis.set_title(name, fontsize=7, loc="left")
    return figure


def loss_curve() -> Figure:
    with (HERE / "transformer_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure((9, 3.2), layout="constrained")
    labels = {"epsilon_mse": "epsilon MSE", "variational_bound": "variational term, bits a dimension"}
    for axis, (column, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        axis.plot([int(row["step"]) for row in rows], [float(row[column]) for row in rows], color="#0072B2")
        axis.set(xlabel="step of 128 pictures; means of 250", ylabel=label, yscale="log")
        axis.grid(alpha=0.3, which="both")
    return figure


def fid_curve(pipeline: DiTPipeline, sampling: Sampling, count: int, every: int) -> list[tuple[str, float, float]]:
    """(step, FID-AlexNet, class accuracy) of every `every`-th snapshot and the last, then of real pictures."""
    reference = Moments.of(image_features(fashion.load("train")[0]))
    snapshots = sorted((STATE / "snapshots").glob("*.safetensors"))
    sets = {path.stem.lstrip("0"): path for path in (*snapshots[every - 1 : -1 : every], snapshots[-1])}
    rows = []
    for step, path in tqdm(sets.items(), desc="snapshots"):
        rows.append((step, *judge(reference, *draw(with_weights(pipeline, path), sampling, count))))
    real, labels = fashion.load("test")
    return [*rows, ("real", *judge(reference, real[:count], labels[:count]))]


def judge(reference: Moments, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    return frechet_distance(reference, Moments.of(image_features(images))), class_accuracy(images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=500, help="a multiple of 10, at most 2000")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--every", type=int, default=4, help="judge each of so many snapshots")
    parser.add_argument("--learned-variance", action="store_true")
    parser.add_argument("--no-fid", action="store_true")
    options = parser.parse_args()
    procedure = "learned_variance" if options.learned_variance else "pipeline"
    sampling = Sampling(procedure=procedure, steps=options.steps, guidance_scale=1.5)
    pipeline = DiTPipeline.from_pretrained(HERE, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    loss_curve().savefig(HERE / "loss_curve.png", dpi=110)
    sample_grid(draw(pipeline, sampling, COLUMNS * len(fashion.CLASSES))[0]).savefig(HERE / "sample_grid.png", dpi=80)
    print("class accuracy", class_accuracy(*draw(pipeline, sampling, options.num_images)), options)
    if not options.no_fid:
        rows = fid_curve(pipeline, sampling, options.num_images, options.every)
        with (HERE / "fid_curve.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", f"fid_alexnet_n{options.num_images}", "class_accuracy"), *rows])


if __name__ == "__main__":
    main()
