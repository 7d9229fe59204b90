"""Pretrains the UNet and the text encoder of tiny_sd (the ALTER teacher) on the emoji. Seeded and resumable.

    python assets/tiny_sd/make_denoiser.py [--steps 11000] [--device cuda] [--compile] [--warm-start]
    python assets/tiny_sd/make_denoiser.py --export-only SNAPSHOT

Latent diffusion as SD2.1 (v-prediction, scaled-linear betas), both networks from random weights, on the held-in split.
The learning rate is constant after its warm-up, falls linearly between two and five sixths of the steps and stays at a
twentieth to the end; the exported weights are the exponential moving average. Ctrl-C stops it; the same command goes
on. Where the state of the optimiser is gone, --warm-start goes on from the committed weights at the last step of the
log, with new moments and a short warm-up.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from make_common import STATE, atomic_save, emoji
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent
BATCH, LEARNING_RATE, WARMUP, EMA_DECAY, SEED = 64, 8e-4, 500, 0.999, 0
FALL, FINAL_SHARE = (4 / 6, 5 / 6), 0.05  # of the steps; of the learning rate
CAPTION_DROPOUT = 0.1  # for classifier-free guidance
BASE_SHARE = 0.7  # share of the batch drawn from base emoji, the rest from skin-tone variants
SAVE_EVERY, SNAPSHOT_EVERY = 250, 1000
UNET = dict(
    sample_size=8,
    in_channels=12,
    out_channels=12,
    block_out_channels=(32, 64, 96, 96),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    attention_head_dim=(1, 2, 3, 3),
    cross_attention_dim=128,
    use_linear_projection=True,
    norm_num_groups=8,
)
TEXT = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    projection_dim=128,
    max_position_embeddings=16,
)
SCHEDULER = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    skip_prk_steps=True,
    steps_offset=1,
    set_alpha_to_one=False,
)


def networks(tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    torch.manual_seed(SEED)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TEXT,
    )
    return UNet2DConditionModel(**UNET), CLIPTextModel(text)


def caption(row: dict, generator: torch.Generator) -> str:
    """The name, half of the time with up to three random keywords behind it; now and then nothing."""
    dropped, plain = torch.rand(2, generator=generator).tolist()
    if dropped < CAPTION_DROPOUT:
        return ""
    count = 0 if plain < 0.5 else min(3, len(row["keywords"]))
    chosen = torch.randperm(len(row["keywords"]), generator=generator)[:count].tolist()
    return ", ".join([row["name"], *(row["keywords"][i] for i in chosen)])


def draw_batch(step: int, rows: list[dict], bases: torch.Tensor, variants: torch.Tensor) -> dict:
    """Everything random of a step, from (seed, step) alone, on the CPU: a resumed run repeats it."""
    generator = torch.Generator().manual_seed(SEED * 10**7 + step)
    num_bases = round(BASE_SHARE * BATCH)
    index = torch.cat(
        [
            pool[torch.randint(len(pool), (count,), generator=generator)]
            for pool, count in ((bases, num_bases), (variants, BATCH - num_bases))
        ]
    )
    stratified = (torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)) / BATCH
    shape = (BATCH, UNET["in_channels"], 8, 8)
    return {
        "index": index,
        "captions": [caption(rows[i], generator) for i in index.tolist()],
        "timesteps": (stratified * 1000).long().clamp(max=999),
        "posterior_noise": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
    }


def learning_rate(step: int, steps: int, since: int) -> float:
    """since: the step at which this optimiser began (0, or where a warm start went on)."""
    fallen = min(max((step / steps - FALL[0]) / (FALL[1] - FALL[0]), 0.0), 1.0)
    return LEARNING_RATE * min((step - since + 1) / WARMUP, 1 - (1 - FINAL_SHARE) * fallen)


def ema_weights(networks: torch.nn.ModuleList, ema: EMAModel) -> dict[str, torch.Tensor]:
    names = [name for name, _ in networks.named_parameters()]
    return {name: shadow.half().cpu().contiguous() for name, shadow in zip(names, ema.shadow_params, strict=True)}


@torch.no_grad()
def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the scaled latents [N, 12, 8, 8]."""
    vae = AutoencoderKL.from_pretrained(HERE / "vae", dtype=torch.float32)
    moments = [vae.encode(batch).latent_dist for batch in images.split(128)]
    return tuple(torch.cat([getattr(m, of) for m in moments]) * vae.config.scaling_factor for of in ("mean", "std"))


def noised(clean: torch.Tensor, batch: dict, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents, and the target of v-prediction."""
    alpha = alphas[batch["timesteps"]].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * batch["noise"]
    return noisy, alpha.sqrt() * batch["noise"] - (1 - alpha).sqrt() * clean


def log_row(losses: list, step: int, rate: float, seconds: float) -> None:
    row = [step, f"{torch.stack(losses).mean().item():.5f}", f"{rate:.2e}", f"{seconds:.0f}"]
    with (HERE / "denoiser_log.csv").open("a", newline="") as file:
        csv.writer(file).writerow(row)


class Trained:
    """Both networks with optimizer and moving average: what a checkpoint holds."""

    def __init__(self, both: torch.nn.ModuleList, since: int) -> None:
        """since: the step at which the optimizer begins, 0 unless a warm start went on."""
        self.both, self.step, self.since = both, since, since
        self.optimizer = torch.optim.AdamW(
            both.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        self.ema = EMAModel(both.parameters(), decay=EMA_DECAY, foreach=True)
        self.parts = {"networks": both, "optimizer": self.optimizer, "ema": self.ema}

    def resume(self, device: str) -> None:
        """From the last checkpoint, or from nothing with a new log."""
        if (state := STATE / "denoiser.pt").exists():
            saved = torch.load(state, weights_only=True, map_location=device)
            self.step, self.since = saved["step"], saved["since"]
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
        elif not self.since:
            (HERE / "denoiser_log.csv").write_text("step,loss,learning_rate,seconds\n")

    def update(self, loss: torch.Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        self.optimizer.step(), self.optimizer.zero_grad(), self.ema.step(self.both.parameters())
        self.step += 1

    def save(self) -> None:
        states = {name: part.state_dict() for name, part in self.parts.items()}
        atomic_save({"step": self.step, "since": self.since, **states}, STATE / "denoiser.pt")

    def snapshot(self) -> None:
        (STATE / "snapshots").mkdir(exist_ok=True)
        save_file(ema_weights(self.both, self.ema), STATE / "snapshots" / f"{self.step:06d}.safetensors")


def train(
    both: torch.nn.ModuleList, tokenizer: CLIPTokenizer, steps: int, device: str, compiled: bool, since: int
) -> None:
    images, rows = emoji("train")
    mean, std = encode(images)
    is_base = torch.tensor([row["variant"] == "" for row in rows])
    bases, variants = is_base.nonzero()[:, 0], (~is_base).nonzero()[:, 0]
    alphas = PNDMScheduler(**SCHEDULER).alphas_cumprod
    unet, text_encoder = both.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    denoise = torch.compile(unet) if compiled else unet
    made = Trained(both, since)
    made.resume(device)
    losses, started = [], time.time()
    for step in tqdm(range(made.step, steps), initial=made.step, total=steps, desc="denoiser", mininterval=30):
        batch, rate = draw_batch(step, rows, bases, variants), learning_rate(step, steps, made.since)
        clean = mean[batch["index"]] + std[batch["index"]] * batch["posterior_noise"]
        noisy, target = (each.to(device) for each in noised(clean, batch, alphas))
        tokens = tokenizer(batch["captions"], padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = text_encoder(tokens.to(device)).last_hidden_state
        loss = (denoise(noisy, batch["timesteps"].to(device), states).sample - target).square().mean()
        made.update(loss, rate)
        losses.append(loss.detach())
        if made.step % SAVE_EVERY == 0 or made.step == steps:
            log_row(losses, made.step, rate, time.time() - started)
            losses, started = [], time.time()
            made.save()
        if made.step % SNAPSHOT_EVERY == 0:
            made.snapshot()


def export(both: torch.nn.ModuleList, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """The pipeline folder from moving-average weights, fp16 safetensors under the standard names."""
    both.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    unet, text_encoder = both.cpu().half()
    vae = AutoencoderKL.from_pretrained(HERE / "vae", dtype=torch.float16)
    vae.register_to_config(_name_or_path="assets/tiny_sd/vae")  # not where this machine keeps it
    scheduler = PNDMScheduler(**SCHEDULER)
    scheduler.register_to_config(clip_sample=False)  # in SD2.1's file too: for DDIM, whose default clips latents
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        unet=unet,
        tokenizer=CLIPTokenizer.from_pretrained(HERE / "tokenizer"),  # a used one saves how it padded
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=11000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet: minutes first, then faster")
    parser.add_argument("--warm-start", action="store_true", help="go on from the committed weights")
    parser.add_argument("--export-only", type=Path, help="write the pipeline from this snapshot and stop")
    options = parser.parse_args()
    tokenizer = CLIPTokenizer.from_pretrained(HERE / "tokenizer")
    both = torch.nn.ModuleList(networks(tokenizer))
    if options.export_only:
        return export(both, load_file(options.export_only), HERE)
    since = 0
    if options.warm_start:
        since = int((HERE / "denoiser_log.csv").read_text().splitlines()[-1].split(",")[0])
        for network, name in zip(both, ("unet/diffusion_pytorch_model", "text_encoder/model"), strict=True):
            network.load_state_dict({k: v.float() for k, v in load_file(HERE / f"{name}.safetensors").items()})
    train(both.to(options.device), tokenizer, options.steps, options.device, options.compile, since)
    export(both, load_file(sorted((STATE / "snapshots").glob("*.safetensors"))[-1]), HERE)


if __name__ == "__main__":
    main()
