"""Hashes of networks: equal for equal names, values and dtypes, wherever they were loaded from."""

import hashlib

import torch
from torch import nn


def add_weights(digest: "hashlib._Hash", module: nn.Module, prefix: str = "") -> None:
    """Feed the parameters and buffers of `module` to `digest`, in the order of their names; prefix: of each name."""
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{prefix}{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def weights_hash(module: nn.Module) -> str:
    """sha256 of a module's parameters and buffers, names and types included: 64 hex digits."""
    digest = hashlib.sha256()
    add_weights(digest, module)
    return digest.hexdigest()
