"""Which sample stands at which place of training, and the random numbers that are its own."""

from collections.abc import Sequence
from functools import lru_cache

import torch

DERIVED = 2**63 - 25  # seeds are mixed modulo a prime


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded from a tuple of integers, the same on every machine."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % DERIVED
    return torch.Generator().manual_seed(seed)


class Order:
    """The order of the samples in every epoch, from (seed, epoch) alone: any step can be resumed at, by any number of
    processes, and an epoch shows each sample once.

    sizes: samples of each shard. buffer: None, one permutation of all; N, the shards are permuted and then the samples
    among each N that follow one another, so that reading stays within a few shards at a time.
    """

    def __init__(self, sizes: Sequence[int], buffer: int | None, seed: int) -> None:
        self.sizes, self.buffer, self.seed, self.length = list(sizes), buffer, seed, sum(sizes)
        self.permutation = lru_cache(maxsize=2)(self._permutation)  # batches ask sample by sample

    def __len__(self) -> int:
        return self.length

    def at(self, place: int) -> tuple[int, int]:
        """(index, epoch) of the sample at `place`, counted from the first sample of epoch 0."""
        epoch, offset = divmod(place, len(self))
        return int(self.permutation(epoch)[offset]), epoch

    def _permutation(self, epoch: int) -> torch.Tensor:
        random = generator(self.seed, epoch)
        if self.buffer is None:
            return torch.randperm(len(self), generator=random)
        shards = torch.arange(len(self)).split(self.sizes)
        line = torch.cat([shards[i] for i in torch.randperm(len(shards), generator=random)])
        return torch.cat([part[torch.randperm(len(part), generator=random)] for part in line.split(self.buffer)])
