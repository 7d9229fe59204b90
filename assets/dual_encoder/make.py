"""Trains the dual encoder behind the *proxy* text scores: a small CLIPModel on the train split of the emoji. Resumable.

    python assets/dual_encoder/make.py [--steps 2000] [--threads 2]

It stands where the paper has CLIP ViT-G/14, and is no substitute for it: 1.1 M parameters that have seen 3132 captioned
pictures. Its scores compare methods on this data set with each other and are called proxy scores everywhere.
Loss: symmetric cross-entropy over the batch (CLIP), equal captions counted once. Pictures are shifted, scaled, blurred,
faded and made noisy, never mirrored: captions speak of left and right.
"""
import argparse
import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample, pad
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

HERE = Path(__file__).parent
EMOJI, TOKENIZER = HERE.parent / "emoji", HERE.parent / "tiny_sd" / "tokenizer" / "tokenizer.json"
STATE = HERE.parents[1] / "runs" / "make_dual_encoder" / "state.pt"  # optimizer state: not committed
BATCH, LEARNING_RATE, WARMUP, WEIGHT_DECAY, SEED, LENGTH = 96, 1e-3, 200, 0.1, 0, 16


def rows_and_images(split: str) -> tuple[list[dict], torch.Tensor]:
    rows = json.loads((EMOJI / "captions.json").read_text())
    keep = [i for i, row in enumerate(rows) if row["split"] == split]
    images = np.load(EMOJI / "emoji.npz")["images"][keep]
    return [rows[i] for i in keep], torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_tokenizer() -> Tokenizer:
    """Rows of LENGTH ids; CLIPTextModel pools at the first end-of-text token, which is also the padding."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=tokenizer.token_to_id("<|endoftext|>"), pad_token="<|endoftext|>")
    return tokenizer


def build(tokenizer: Tokenizer) -> CLIPModel:
    first, last = tokenizer.token_to_id("<|startoftext|>"), tokenizer.token_to_id("<|endoftext|>")
    common = dict(hidden_size=128, intermediate_size=256, num_attention_heads=4, attention_dropout=0.1)
    text = CLIPTextConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LENGTH, num_hidden_layers=2,
                          pad_token_id=last, bos_token_id=first, eos_token_id=last, **common)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, num_hidden_layers=4, **common)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64))


def caption(row: dict, rng: np.random.Generator) -> str:
    """The name, the name with keywords, or keywords alone: 50, 30, 20 %."""
    kind = rng.choice(3, p=[0.5, 0.3, 0.2])
    if kind == 0 or not row["keywords"]:
        return row["name"]
    words = rng.choice(row["keywords"], min(len(row["keywords"]), int(rng.integers(1, 4))), replace=False).tolist()
    return ", ".join([row["name"], *words] if kind == 1 else words)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A draw for each image: zoom 0.8-1.15, shift up to 3 px, blur, contrast, Gaussian noise."""
    n = len(images)
    zoom, fade, sigma = (torch.rand(n, 1, 1, 1, generator=generator) for _ in range(3))
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / (0.8 + 0.35 * zoom.flatten())
    theta[:, :, 2] = (torch.rand(n, 2, generator=generator) * 2 - 1) * 3 / 16
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    moved = grid_sample(images - 1, grid, align_corners=False) + 1  # white outside
    blurred = avg_pool2d(pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = (torch.rand(n, 1, 1, 1, generator=generator) < 0.25) * torch.rand(n, 1, 1, 1, generator=generator)
    moved = torch.lerp(moved, blurred, blur) * (0.85 + 0.3 * fade)
    noise = torch.randn(moved.shape, generator=generator)
    return (moved + 0.2 * (sigma - 0.5).clamp_min(0) * noise).clamp(-1, 1)


def retrieval(model: CLIPModel, images: torch.Tensor, rows: list[dict], tokenizer: Tokenizer) -> tuple[float, float]:
    """R@1 and R@5 of names by image, the share of images whose own name is among the best of 100 shuffled names."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))[:1000]
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch([rows[i]["name"] for i in order])])
    model.eval()
    groups = zip(images[order].split(100), ids.split(100), strict=True)
    with torch.no_grad():
        scores = [model(pixel_values=picture, input_ids=text).logits_per_image
                  for picture, text in groups if len(picture) == 100]
    model.train()
    ranks = torch.cat([(score > score.diagonal()[:, None]).sum(1) for score in scores])
    return (ranks < 1).float().mean().item(), (ranks < 5).float().mean().item()


def step_loss(model: CLIPModel, images: torch.Tensor, rows: list[dict], tokenizer: Tokenizer,
              step: int) -> torch.Tensor:
    rng, generator = np.random.default_rng([SEED, step]), torch.Generator().manual_seed(SEED * 10**6 + step)
    chosen = rng.choice(len(rows), BATCH, replace=False)
    captions = {caption(rows[i], rng): i for i in chosen}  # equal captions: one of them
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(captions))])
    torch.manual_seed(SEED * 10**6 + step)  # attention dropout
    logits = model(pixel_values=augment(images[list(captions.values())], generator), input_ids=ids).logits_per_image
    target = torch.arange(len(ids))
    return sum(cross_entropy(scores, target, label_smoothing=0.05) for scores in (logits, logits.T)) / 2


def save_state(state: dict) -> None:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, STATE.with_suffix(".tmp"))
    os.replace(STATE.with_suffix(".tmp"), STATE)


def train(model: CLIPModel, tokenizer: Tokenizer, steps: int) -> None:
    (rows, images), (held_out_rows, held_out) = rows_and_images("train"), rows_and_images("test")
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / WARMUP) * (0.51 + 0.49 * math.cos(math.pi * min(k / steps, 1.0))))
    log, first = HERE / "log.csv", 0
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if STATE.exists():
        saved = torch.load(STATE, weights_only=True)
        first = saved.pop("step")
        for name, state in saved.items():
            parts[name].load_state_dict(state)
    else:
        log.write_text("step,loss,r1_train,r5_train,r1_held_out,r5_held_out\n")
    for step in tqdm(range(first, steps), initial=first, total=steps, desc="dual encoder", mininterval=10):
        loss = step_loss(model, images, rows, tokenizer, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))
        if (step + 1) % 250 == 0 or step + 1 == steps:
            scores = *retrieval(model, images, rows, tokenizer), *retrieval(model, held_out, held_out_rows, tokenizer)
            with log.open("a", newline="") as file:
                csv.writer(file).writerow([step + 1, f"{loss.item():.4f}", *(f"{score:.3f}" for score in scores)])
            save_state({"step": step + 1} | {name: part.state_dict() for name, part in parts.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    tokenizer = load_tokenizer()
    model = build(tokenizer)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    train(model, tokenizer, arguments.steps)
    model.half().save_pretrained(HERE)


if __name__ == "__main__":
    main()
