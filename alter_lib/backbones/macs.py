"""Multiply-accumulate operations of a denoiser and of each prunable layer, counted on a meta-device copy."""

from collections import Counter

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

LINEAR_CONV, WITH_ATTENTION = "linear+conv", "linear+conv+attention"
CONVENTIONS = (LINEAR_CONV, WITH_ATTENTION)
_WEIGHT_PRODUCTS = ("aten.convolution", "aten.mm", "aten.addmm", "aten.linear")


def count_macs(denoiser: nn.Module, inputs: dict, convention: str = WITH_ATTENTION) -> Counter:
    """MACs of one forward by module path ("" = the whole network).

    `linear+conv` leaves the attention matrix products out, as the 38.04 T of the paper's Table 2 does;
    `linear+conv+attention` counts them. The network must be on the meta device: nothing is computed.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        denoiser(**inputs, return_dict=False)
    root, macs = type(denoiser).__name__, Counter()
    for path, operations in counter.flop_counts.items():
        if path == root or path.startswith(root + "."):
            macs[path[len(root) + 1 :]] = (
                sum(
                    flops
                    for operation, flops in operations.items()
                    if convention == WITH_ATTENTION or str(operation) in _WEIGHT_PRODUCTS
                )
                // 2
            )
    return macs
