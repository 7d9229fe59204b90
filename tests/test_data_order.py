"""Laws of the order of samples and of the square that is cut out of a picture."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alter_lib.data.order import Order
from alter_lib.data.transforms import Unreadable, decode, square

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(sum)
BUFFERS = st.one_of(st.none(), st.integers(1, 50))


@given(SIZES, BUFFERS, st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_an_epoch_shows_each_sample_once(sizes: list[int], buffer: int | None, seed: int, epoch: int):
    order, total = Order(sizes, buffer, seed), sum(sizes)
    shown = [order.at(place) for place in range(epoch * total, (epoch + 1) * total)]
    assert sorted(shown) == [(index, epoch) for index in range(total)]


@given(SIZES, st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_a_shuffle_buffer_reads_shard_after_shard(sizes: list[int], buffer: int, seed: int):
    """Each `buffer` samples come from shards in a row: their numbers fill no more shards than they must."""
    order = [int(i) for i in Order(sizes, buffer, seed).permutation(0)]
    shard_of = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    line = [shard_of[i] for first in range(0, len(order), buffer) for i in sorted(order[first : first + buffer])]
    for first in range(0, len(order), buffer):
        seen, later = set(line[: first + buffer]), line[first + buffer :]
        unfinished = {shard for shard in seen if shard in later}
        assert len(unfinished) <= 1  # at most the one that the next samples go on with


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(Order([50, 50], 20, seed).permutation(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_every_picture_becomes_a_square(width: int, height: int, side: int, centering: tuple[float, float]):
    assert square(Image.new("RGB", (width, height)), side, centering).shape == (side, side, 3)


def test_the_shorter_side_is_resized_and_the_longer_one_cropped():
    """Columns 0..63 in grey 4 x: at 32 px of 64 x 32 nothing is resized, and the crop is a window of 32 columns."""
    pixels = np.repeat((4 * np.arange(64, dtype=np.uint8))[None], 32, axis=0)
    picture = Image.fromarray(np.stack([pixels] * 3, axis=-1))
    for x, first in ((0.0, 0), (0.5, 16), (1.0, 32)):
        assert (square(picture, 32, (x, 0.5))[:, :, 0] == 4 * np.arange(first, first + 32)).all()
    smaller = square(picture, 16)[:, :, 0].astype(int)  # halved: pixel i is about the mean of columns 16 + 2 i, + 1
    assert np.abs(smaller[:, 2:-2] - (4 * (16.5 + 2 * np.arange(2, 14)))).max() <= 1


def test_transparent_parts_are_white_and_orientation_is_followed(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(decode(str(tmp_path / "clear.png"))).min() == 255
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert decode((tmp_path / "turned.jpg").read_bytes()).size == (4, 8)


def test_a_missing_or_damaged_file_is_unreadable(tmp_path):
    for image in (str(tmp_path / "none.jpg"), b"no picture", b""):
        with pytest.raises(Unreadable):
            decode(image)


def test_samples_of_each_shard_are_counted_in_the_epoch():
    order = Order([3, 0, 5], None, 0)
    counts = Counter(order.at(place)[0] for place in range(3 * len(order)))
    assert counts == dict.fromkeys(range(8), 3)
