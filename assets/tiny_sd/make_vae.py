"""Trains the AutoencoderKL of tiny_sd on the emoji: 32 x 32 x 3 -> 8 x 8 x 12 latents. Resumable.

    python assets/tiny_sd/make_vae.py [--steps 2000] [--batch-size 32] [--device cuda]

Loss: mean squared error + 1e-6 x KL, as Stable Diffusion's first stage without its perceptual and adversarial terms
(at 32 px little is blurred away). Latents are scaled to unit variance (`scaling_factor`).
"""

import argparse
import csv
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from make_common import STATE, atomic_save, emoji, psnr
from tqdm.auto import tqdm

HERE = Path(__file__).parent
LEARNING_RATE, KL_WEIGHT, SEED = 2e-3, 1e-6, 0
CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=12,
    sample_size=32,
    block_out_channels=(16, 32, 64),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flips and shifts by up to 2 px: 3164 pictures alone are few for an autoencoder."""
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return images.roll(shift, (-2, -1))


def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    with torch.no_grad():
        decoded = [vae(batch.to(vae.device)).sample.clamp(-1, 1).cpu() for batch in images.split(128)]
        return psnr(torch.cat(decoded), images)


def log_row(vae: AutoencoderKL, mse: float, kl: float, images: torch.Tensor, held_out: torch.Tensor, step: int) -> None:
    scores = [f"{reconstruction_psnr(vae, pictures):.2f}" for pictures in (images[:512], held_out)]
    with (HERE / "vae_log.csv").open("a", newline="") as file:
        csv.writer(file).writerow([step, f"{mse:.5f}", f"{kl:.1f}", *scores])


def losses(vae: AutoencoderKL, batch: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error of the reconstruction from a sampled latent, and KL to N(0, 1)."""
    posterior = vae.encode(batch).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(vae.device)
    mse = (vae.decode(posterior.mean + posterior.std * noise).sample - batch).square().mean()
    return mse, posterior.kl().mean()


def resume(parts: dict, device: torch.device) -> int:
    """The step of the last checkpoint, whose state `parts` get, or 0 with a new log."""
    if not (state := STATE / "vae.pt").exists():
        (HERE / "vae_log.csv").write_text("step,mse,kl,psnr_train,psnr_held_out\n")
        return 0
    saved = torch.load(state, weights_only=True, map_location=device)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"]


def train(vae: AutoencoderKL, images: torch.Tensor, held_out: torch.Tensor, steps: int, size: int) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * min(k / steps, 1.0))) + 1e-3
    )
    ema = EMAModel(vae.parameters(), decay=0.998)
    parts = {"vae": vae, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    first = resume(parts, vae.device)
    for step in tqdm(range(first, steps), initial=first, total=steps, desc="vae", mininterval=10):
        generator = torch.Generator().manual_seed(SEED * 10**6 + step)
        batch = augment(images[torch.randint(len(images), (size,), generator=generator)], generator).to(vae.device)
        mse, kl = losses(vae, batch, generator)
        (mse + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad(), ema.step(vae.parameters())
        if (step + 1) % 250 == 0 or step + 1 == steps:
            ema.store(vae.parameters()), ema.copy_to(vae.parameters())
            log_row(vae, mse.item(), kl.item(), images, held_out, step + 1)
            ema.restore(vae.parameters())
            states = {name: part.state_dict() for name, part in parts.items()}
            atomic_save({"step": step + 1, **states}, STATE / "vae.pt")
    ema.copy_to(vae.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    vae, images, held_out = AutoencoderKL(**CONFIG).to(options.device), emoji("train")[0], emoji("test")[0]
    train(vae, images, held_out, options.steps, options.batch_size)
    vae = vae.cpu()
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(128)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.half().save_pretrained(HERE / "vae")
    splits = {"held in": images, "held out": held_out}
    scores = (f"{reconstruction_psnr(vae.float(), pictures):.2f} dB {name}" for name, pictures in splits.items())
    print("PSNR", *scores)


if __name__ == "__main__":
    main()
