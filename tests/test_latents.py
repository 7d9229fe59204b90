"""Training batches: the same whether latents and text are cached or made on the fly, and however they are sharded."""

import pytest
import torch
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.data.latents import Batches
from alter_lib.params import Data


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def batches(pipeline, **options):
    return Batches(pipeline, Data(limit=10, **options), batch_size=6, seed=3)


@pytest.mark.parametrize("off", [{"cache_latents": False}, {"cache_text": False}])
def test_without_a_cache_the_batches_are_the_same(pipeline, off):
    cached, fresh = batches(pipeline), batches(pipeline, **off)
    for step in range(3):  # beyond one epoch
        ours, theirs = cached.batch(step), fresh.batch(step)
        for name in ("latents", "noise", "condition", "timesteps"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)


def test_the_shares_of_two_processes_are_the_batch_of_one(pipeline):
    data = batches(pipeline)
    whole, shares = data.batch(2), [data.batch(2, rank, 2) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert torch.equal(share.noise, whole.noise[rank::2])
        assert torch.equal(share.condition, whole.condition[rank::2])


def test_an_epoch_shows_every_image_once(pipeline):
    data = batches(pipeline)
    order = [int(i) for i in data.permutation(4)]
    assert sorted(order) == list(range(10)) != order


def test_captions_are_dropped_as_often_as_asked(pipeline):
    data = batches(pipeline, caption_dropout=0.5)
    captions = [data.draw(index, epoch, (1,))[3] for index in range(10) for epoch in range(40)]
    assert 0.4 < captions.count("") / len(captions) < 0.6  # 400 draws: 4 standard deviations
