"""Images on disk: what is written is read, whole batches or nothing; export for the ADM evaluator; resizing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alter_lib.evaluation.adm import write_adm
from alter_lib.evaluation.image_store import ImageSet, ImageStore
from alter_lib.evaluation.prompts import PromptList
from alter_lib.evaluation.reference import load_reference
from alter_lib.evaluation.resizing import resized
from alter_lib.evaluation.weights import Unavailable
from alter_lib.params import Evaluation, ParamsError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)


def filled(home: Path, image_format: str) -> ImageStore:
    store = ImageStore(home, image_format)
    for indices in ([3, 4], [0, 1, 2], [5, 6]):
        store.write(indices, IMAGES[indices])
    return store


@pytest.mark.parametrize("image_format", ["npz", "png"])
def test_what_is_written_is_read(tmp_path: Path, image_format: str) -> None:
    store = filled(tmp_path / "x", image_format)
    assert store.present() == set(range(7))
    np.testing.assert_array_equal(store.read([6, 0, 3]), IMAGES[[6, 0, 3]])
    np.testing.assert_array_equal(np.concatenate(list(ImageSet(store, 7).batches(3))), IMAGES)


def test_a_batch_of_pngs_that_was_cut_short_is_not_there(tmp_path: Path) -> None:
    store = filled(tmp_path / "x", "png")
    (tmp_path / "x" / "000003.json").unlink()  # written last
    assert store.present() == {0, 1, 2, 5, 6}


@pytest.mark.parametrize("image_format", ["npz", "png"])
def test_a_batch_that_the_disk_damaged_is_drawn_again(
    tmp_path: Path, image_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = filled(tmp_path / "x", image_format)
    file = store.batch_files()[3]
    file.write_bytes(file.read_bytes()[:-5])
    assert store.present() == {0, 1, 2, 5, 6}
    assert capsys.readouterr().err.startswith(f"{file}: damaged (") and not file.exists()
    store.write([3, 4], IMAGES[[3, 4]])
    np.testing.assert_array_equal(store.read(range(7)), IMAGES)


def test_adm_npz_holds_arr_0(tmp_path: Path) -> None:
    write_adm(ImageSet(filled(tmp_path / "x", "npz"), 7), tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays.files == ["arr_0"] and arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)


def test_resizing_is_pillows_and_leaves_the_size_alone() -> None:
    assert resized(IMAGES, None) is IMAGES and resized(IMAGES, 12) is IMAGES
    small = resized(IMAGES, 4, "box")  # the mean of 3 x 3 pixels
    expected = IMAGES.reshape(7, 4, 3, 4, 3, 3).mean((2, 4))
    assert np.abs(small - expected).max() <= 1
    np.testing.assert_array_equal(
        resized(IMAGES, 8)[2], np.asarray(Image.fromarray(IMAGES[2]).resize((8, 8), Image.BICUBIC))
    )


def options(reference: Path, protocol: str = "prompts", **values) -> Evaluation:
    return Evaluation(protocol=protocol, prompts="x", reference=str(reference), **values)


def test_a_folder_of_photos_is_squashed_and_coco_s_are_chosen_by_id(tmp_path: Path) -> None:
    for i in (7, 8, 9):
        Image.new("RGB", (20 + i, 10), (i, 0, 0)).save(tmp_path / f"COCO_val2014_{i:012d}.png")
    Image.new("L", (5, 5)).save(tmp_path / "other.png")
    everything = load_reference(options(tmp_path, resolution=32), None)
    assert len(everything) == 4 and next(everything.batches(4)).shape == (4, 32, 32, 3)

    two = load_reference(
        options(tmp_path, "coco2014", resolution=32), PromptList("coco2014", "", "", (9, 7), ("a", "b"))
    )
    assert [path.stem[-1] for path in two.files] == ["7", "9"] and two.digest != everything.digest
    with pytest.raises(ParamsError, match="holds 0 images of coco2014"):
        load_reference(options(tmp_path, "coco2014"), PromptList("coco2014", "", "", (1,), ("a",)))


def test_an_npz_of_adm_brings_its_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", arr_0=IMAGES, mu=np.zeros(3), sigma=np.eye(3))
    reference = load_reference(options(tmp_path / "r.npz"), None)
    assert len(reference) == 7 and (next(reference.batches(7)) == IMAGES).all()
    assert (reference.moments("pool").covariance == np.eye(3)).all() and reference.moments("spatial") is None
    np.savez(tmp_path / "bad.npz", images=IMAGES)
    with pytest.raises(ParamsError, match="holds no arr_0; it has images"):
        load_reference(options(tmp_path / "bad.npz"), None)
    with pytest.raises(Unavailable, match="real images: put it at"):
        load_reference(options(tmp_path / "nowhere"), None)
