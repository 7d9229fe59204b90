"""Pretrains the transformer of tiny_dit (the ALTER teacher) on Fashion-MNIST. Seeded and resumable.

    python assets/tiny_dit/make_transformer.py [--steps 7000] [--device cuda] [--compile] [--warm-start]
    python assets/tiny_dit/make_transformer.py --export-only SNAPSHOT

Latent diffusion as in DiT (Peebles & Xie 2023): epsilon prediction with a learned variance, linear betas, labels
dropped for classifier-free guidance, adaLN-zero blocks, one embedder of timestep and label for all of them. The
learning rate is constant after its warm-up, falls linearly between two and five sixths of the steps and stays at a
twentieth to the end; the exported weights are the exponential moving average. Ctrl-C stops it; the same command goes
on. Where the state of the optimiser is gone, --warm-start goes on from the committed weights at the last step of the
log, with new moments and a short warm-up.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.training_utils import EMAModel
from make_common import STATE, atomic_save, pictures
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from alter_lib.backbones.dit import prepare, register_labels, separate
from alter_lib.data.fashion import CLASSES
from alter_lib.losses import variational_bound

HERE = Path(__file__).parent
BATCH, LEARNING_RATE, WARMUP, EMA_DECAY, SEED = 128, 1e-3, 500, 0.999, 0
FALL, FINAL_SHARE = (4 / 6, 5 / 6), 0.05  # of the steps; of the learning rate
LABEL_DROPOUT = 0.1  # for classifier-free guidance
SAVE_EVERY, SNAPSHOT_EVERY = 250, 1000
NULL = 1000  # the class that DiTPipeline writes where there is no label; so the table has 1001 rows
TRANSFORMER = dict(
    sample_size=8,
    patch_size=2,
    in_channels=4,
    out_channels=8,  # epsilon and, in [-1, 1], the place of the variance between its bounds
    num_layers=12,
    num_attention_heads=4,
    attention_head_dim=26,
    num_embeds_ada_norm=NULL,
)
SCHEDULER = dict(  # that of DiT-XL/2
    num_train_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    prediction_type="epsilon",
    clip_sample=False,
)


@torch.no_grad()
def initialise(dit: DiTTransformer2DModel) -> None:
    """The DiT repository's initial weights, which diffusers' class does not set: Xavier with zero biases; embedders
    N(0, 0.02^2); zero for adaLN's layers and the output head's, so that every block begins as the identity."""
    for layer in dit.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(dit.pos_embed.proj.weight.flatten(1))
    nn.init.zeros_(dit.pos_embed.proj.bias)
    embedder = dit.transformer_blocks[0].norm1.emb
    table = embedder.class_embedder.embedding_table.weight
    for weight in (embedder.timestep_embedder.linear_1.weight, embedder.timestep_embedder.linear_2.weight, table):
        nn.init.normal_(weight, std=0.02)
    table[len(CLASSES) : NULL] = 0  # rows of no class
    for layer in (*(block.norm1.linear for block in dit.transformer_blocks), dit.proj_out_1, dit.proj_out_2):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)


def network() -> DiTTransformer2DModel:
    """With one embedder for all blocks, and no label dropout of its own: a label is dropped once for all of them."""
    torch.manual_seed(SEED)
    dit = DiTTransformer2DModel(**TRANSFORMER)
    prepare(dit, pretrained=False)
    initialise(dit)
    return dit


def draw_batch(step: int, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Everything random of a step, from (seed, step) alone, on the CPU: a resumed run repeats it."""
    generator = torch.Generator().manual_seed(SEED * 10**7 + step)
    index = torch.randint(len(labels), (BATCH,), generator=generator)
    dropped = torch.rand(BATCH, generator=generator) < LABEL_DROPOUT
    stratified = (torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)) / BATCH
    shape = (BATCH, TRANSFORMER["in_channels"], TRANSFORMER["sample_size"], TRANSFORMER["sample_size"])
    return {
        "index": index,
        "labels": labels[index].where(~dropped, NULL),
        "timesteps": (stratified * 1000).long().clamp(max=999),
        "posterior_noise": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
    }


@torch.no_grad()
def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the scaled latents [N, 4, 8, 8]."""
    vae = AutoencoderKL.from_pretrained(HERE / "vae", dtype=torch.float32)
    moments = [vae.encode(batch).latent_dist for batch in images.split(128)]
    return tuple(torch.cat([getattr(m, of) for m in moments]) * vae.config.scaling_factor for of in ("mean", "std"))


def diffusion_losses(
    denoise: nn.Module, clean: torch.Tensor, batch: dict, alphas: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error of epsilon, and the variational term that trains the variance alone (epsilon detached)."""
    alpha = alphas[batch["timesteps"]].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * batch["noise"]
    epsilon, variance = denoise(noisy, batch["timesteps"], batch["labels"]).sample.chunk(2, dim=1)
    bound = variational_bound(epsilon.detach(), variance, clean, noisy, batch["timesteps"], alphas)
    return (epsilon - batch["noise"]).square().mean(), bound


def learning_rate(step: int, steps: int, since: int) -> float:
    """since: the step at which this optimiser began (0, or where a warm start went on)."""
    fallen = min(max((step / steps - FALL[0]) / (FALL[1] - FALL[0]), 0.0), 1.0)
    return LEARNING_RATE * min((step - since + 1) / WARMUP, 1 - (1 - FINAL_SHARE) * fallen)


def ema_weights(dit: DiTTransformer2DModel, ema: EMAModel) -> dict[str, torch.Tensor]:
    """Half-precision moving averages; of the shared embedder there is one copy, block 0's."""
    names = [name for name, _ in dit.named_parameters()]
    return {name: shadow.half().cpu().contiguous() for name, shadow in zip(names, ema.shadow_params, strict=True)}


def log_row(losses: list, step: int, rate: float, seconds: float) -> None:
    mse, bound = torch.stack(losses).mean(0).tolist()
    row = [step, f"{mse:.5f}", f"{bound:.5f}", f"{rate:.2e}", f"{seconds:.0f}"]
    with (HERE / "transformer_log.csv").open("a", newline="") as file:
        csv.writer(file).writerow(row)


class Trained:
    """The transformer with optimizer and moving average: what a checkpoint holds."""

    def __init__(self, dit: DiTTransformer2DModel, since: int) -> None:
        """since: the step at which the optimizer begins, 0 unless a warm start went on."""
        self.dit, self.step, self.since = dit, since, since
        self.optimizer = torch.optim.AdamW(
            dit.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.ema = EMAModel(dit.parameters(), decay=EMA_DECAY, foreach=True)
        self.parts = {"transformer": dit, "optimizer": self.optimizer, "ema": self.ema}

    def resume(self, device: str) -> None:
        """From the last checkpoint, or from nothing with a new log."""
        if (state := STATE / "transformer.pt").exists():
            saved = torch.load(state, weights_only=True, map_location=device)
            self.step, self.since = saved["step"], saved["since"]
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
        elif not self.since:
            (HERE / "transformer_log.csv").write_text("step,epsilon_mse,variational_bound,learning_rate,seconds\n")

    def update(self, loss: torch.Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.dit.parameters(), 1.0)
        self.optimizer.step(), self.optimizer.zero_grad(), self.ema.step(self.dit.parameters())
        self.step += 1

    def save(self) -> None:
        states = {name: part.state_dict() for name, part in self.parts.items()}
        atomic_save({"step": self.step, "since": self.since, **states}, STATE / "transformer.pt")

    def snapshot(self) -> None:
        (STATE / "snapshots").mkdir(exist_ok=True)
        save_file(ema_weights(self.dit, self.ema), STATE / "snapshots" / f"{self.step:06d}.safetensors")


def train(dit: DiTTransformer2DModel, steps: int, device: str, compiled: bool, since: int) -> None:
    images, labels = pictures("train")
    mean, std = encode(images)
    alphas = DDIMScheduler(**SCHEDULER).alphas_cumprod.to(device)
    denoise = torch.compile(dit) if compiled else dit
    made = Trained(dit, since)
    made.resume(device)
    losses, started = [], time.time()
    for step in tqdm(range(made.step, steps), initial=made.step, total=steps, desc="transformer", mininterval=30):
        drawn, rate = draw_batch(step, labels), learning_rate(step, steps, made.since)
        clean = (mean[drawn["index"]] + std[drawn["index"]] * drawn["posterior_noise"]).to(device)
        mse, bound = diffusion_losses(denoise, clean, {k: v.to(device) for k, v in drawn.items()}, alphas)
        made.update(mse + bound, rate)
        losses.append(torch.stack([mse, bound]).detach())
        if made.step % SAVE_EVERY == 0 or made.step == steps:
            log_row(losses, made.step, rate, time.time() - started)
            losses, started = [], time.time()
            made.save()
        if made.step % SNAPSHOT_EVERY == 0 or made.step == steps:
            made.snapshot()


def export(dit: DiTTransformer2DModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """The pipeline folder from moving-average weights, fp16 safetensors under the standard names."""
    dit.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    vae = AutoencoderKL.from_pretrained(HERE / "vae", dtype=torch.float16)
    vae.register_to_config(_name_or_path="assets/tiny_dit/vae")  # not where this machine keeps it
    id2label = dict(enumerate(CLASSES))
    pipeline = DiTPipeline(dit.cpu().half(), vae, DDIMScheduler(**SCHEDULER), id2label)
    register_labels(pipeline)
    with separate(dit):  # a copy of the embedder in every block, as stock diffusers loads it
        pipeline.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer: slow first, then faster")
    parser.add_argument("--warm-start", action="store_true", help="go on from the committed weights")
    parser.add_argument("--export-only", type=Path, help="write the pipeline from this snapshot and stop")
    options = parser.parse_args()
    dit, since = network(), 0
    if options.warm_start:
        weights = load_file(HERE / "transformer" / "diffusion_pytorch_model.safetensors")
        dit.load_state_dict({name: value.float() for name, value in weights.items()})
        since = int((HERE / "transformer_log.csv").read_text().splitlines()[-1].split(",")[0])
    if not options.export_only:
        train(dit.to(options.device), options.steps, options.device, options.compile, since)
    last = options.export_only or max((STATE / "snapshots").glob("*.safetensors"))
    export(dit, load_file(last), HERE)


if __name__ == "__main__":
    main()
