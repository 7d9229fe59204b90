"""Trains the AutoencoderKL of tiny_dit on Fashion-MNIST: 32 x 32 x 3 -> 8 x 8 x 4 latents. Resumable.

    python assets/tiny_dit/make_vae.py [--steps 3000] [--batch-size 32] [--device cuda]

Loss: mean squared error + 1e-6 x KL, as Stable Diffusion's first stage without its perceptual and adversarial terms.
Latents are scaled to unit variance (`scaling_factor`). Pictures are not flipped or shifted: they are centred and face
one way, and the decoder shall draw no other.
"""

import argparse
import csv
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from make_common import STATE, atomic_save, pictures, psnr
from tqdm.auto import tqdm

HERE = Path(__file__).parent
LEARNING_RATE, KL_WEIGHT, SAVE_EVERY, SEED = 2e-3, 1e-6, 250, 0
CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    sample_size=32,
    block_out_channels=(8, 16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
)


def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    with torch.no_grad():
        decoded = [vae(batch.to(vae.device)).sample.clamp(-1, 1).cpu() for batch in images.split(128)]
        return psnr(torch.cat(decoded), images)


def learning_rate(step: int, steps: int) -> float:
    """Relative to LEARNING_RATE: a warm-up of 100 steps, then half a cosine."""
    return min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0))) + 1e-3


def step_losses(
    vae: AutoencoderKL, images: torch.Tensor, step: int, size: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error and KL; all that is random comes from (seed, step), on the CPU: a resumed run repeats it."""
    generator = torch.Generator().manual_seed(SEED * 10**6 + step)
    batch = images[torch.randint(len(images), (size,), generator=generator)].to(device)
    posterior = vae.encode(batch).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
    reconstructed = vae.decode(posterior.mean + posterior.std * noise).sample
    return (reconstructed - batch).square().mean(), posterior.kl().mean()


def train(vae: AutoencoderKL, images: torch.Tensor, held_out: torch.Tensor, steps: int, size: int, device: str) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    ema, log, first = EMAModel(vae.parameters(), decay=0.998, foreach=True), HERE / "vae_log.csv", 0
    if (state := STATE / "vae.pt").exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        first = saved["step"]
        for part, name in ((vae, "vae"), (optimizer, "optimizer"), (ema, "ema")):
            part.load_state_dict(saved[name])
    else:
        log.write_text("step,mse,kl,psnr_train,psnr_held_out\n")
    for step in tqdm(range(first, steps), initial=first, total=steps, desc="vae", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate(step, steps)
        mse, kl = step_losses(vae, images, step, size, device)
        (mse + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(), optimizer.zero_grad(), ema.step(vae.parameters())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            ema.store(vae.parameters()), ema.copy_to(vae.parameters())
            scores = (f"{reconstruction_psnr(vae, split[:512]):.2f}" for split in (images, held_out))
            with log.open("a", newline="") as file:
                csv.writer(file).writerow([step + 1, f"{mse.item():.5f}", f"{kl.item():.1f}", *scores])
            ema.restore(vae.parameters())
            parts = {"vae": vae, "optimizer": optimizer, "ema": ema}
            atomic_save({"step": step + 1} | {name: part.state_dict() for name, part in parts.items()}, state)
    ema.copy_to(vae.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    vae, images, held_out = AutoencoderKL(**CONFIG), pictures("train")[0], pictures("test")[0]
    vae.to(options.device, memory_format=torch.channels_last)  # faster on a CPU
    train(vae, images, held_out, options.steps, options.batch_size, options.device)
    vae = vae.to("cpu", memory_format=torch.contiguous_format)
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(128)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.half().save_pretrained(HERE / "vae")
    splits = {"held in": images[: len(held_out)], "held out": held_out}
    scores = (f"{reconstruction_psnr(vae.float(), split):.2f} dB {name}" for name, split in splits.items())
    print("PSNR", *scores)


if __name__ == "__main__":
    main()
