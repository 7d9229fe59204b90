"""Trains the classifier of class-conditional figures on all 60 000 training images of Fashion-MNIST. Resumable.

    python assets/fashion_classifier/make.py FOLDER [--steps 1400]    # FOLDER: Fashion-MNIST's four idx files

Network: `alter_lib.evaluation.classifier`. Adam's learning rate is constant after its warm-up and falls linearly over
the last two fifths. Ctrl-C stops it; the same command goes on, as does one with more steps. Prints the accuracy on all
10 000 test images, none of which is used for training or for choosing anything.
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from alter_lib.data.fashion import CLASSES, read_source
from alter_lib.evaluation.classifier import FashionClassifier, accuracy

HERE = Path(__file__).parent
STATE = HERE.parents[1] / "runs" / "make_fashion_classifier" / "state.pt"  # optimizer state: not committed
BATCH, LEARNING_RATE, WARMUP, WEIGHT_DECAY, SAVE_EVERY, SEED = 128, 3e-3, 100, 1e-2, 100, 0


def pictures(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, 1, 32, 32] and labels [N]; one grey channel means the same to the classifier as three equal ones."""
    images, labels = read_source(folder, split)
    return pad(torch.from_numpy(images.copy())[:, None], (2, 2, 2, 2)), torch.from_numpy(labels.astype(np.int64))


def learning_rate(step: int, steps: int) -> float:
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP, max(2.5 * (1 - step / steps), 0.01))


def batch_of(step: int, count: int) -> torch.Tensor:
    """Indices of a step: those of consecutive steps go through a permutation of all images, a new one each epoch."""
    epoch, position = divmod(step * BATCH, count - count % BATCH)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED * 10**6 + epoch))
    return order[position : position + BATCH]


def save_state(state: dict) -> None:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, STATE.with_suffix(".tmp"))
    os.replace(STATE.with_suffix(".tmp"), STATE)


def train(classifier: FashionClassifier, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(classifier.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    log, first = HERE / "log.csv", 0
    if STATE.exists():
        saved = torch.load(STATE, weights_only=True)
        first = saved["step"]
        classifier.load_state_dict(saved["classifier"]), optimizer.load_state_dict(saved["optimizer"])
    else:
        log.write_text("step,loss,accuracy_train,learning_rate,seconds\n")
    losses, hits, started = [], [], time.time()
    for step in tqdm(range(first, steps), initial=first, total=steps, desc="classifier", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        chosen = batch_of(step, len(labels))
        logits, _ = classifier(images[chosen])
        loss = cross_entropy(logits, labels[chosen])
        loss.backward()
        optimizer.step(), optimizer.zero_grad()
        losses.append(loss.item()), hits.append((logits.argmax(1) == labels[chosen]).float().mean().item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            row = f"{np.mean(losses):.4f}", f"{np.mean(hits):.4f}", f"{learning_rate(step, steps):.2e}"
            with log.open("a", newline="") as file:
                csv.writer(file).writerow([step + 1, *row, f"{time.time() - started:.0f}"])
            losses, hits, started = [], [], time.time()
            save_state({"step": step + 1, "classifier": classifier.state_dict(), "optimizer": optimizer.state_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the folder of Fashion-MNIST's four idx files")
    parser.add_argument("--steps", type=int, default=1400, help="of 128 images; 469 are an epoch")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    classifier = FashionClassifier(len(CLASSES)).to(memory_format=torch.channels_last)
    train(classifier.train(), *pictures(options.source, "train"), options.steps)
    classifier = classifier.half().float().eval()  # what is stored is what is measured
    tensors = {name: value.contiguous() for name, value in classifier.half().state_dict().items()}
    save_file(tensors, HERE / "model.safetensors")
    config = {"classes": CLASSES, "input": "grey, 32 px, [-1, 1]", "num_features": classifier.num_features}
    (HERE / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    score = accuracy(classifier.float(), *pictures(options.source, "test"))
    print(f"{sum(p.numel() for p in classifier.parameters())} parameters, test accuracy {score:.4f} (10000 images)")


if __name__ == "__main__":
    main()
