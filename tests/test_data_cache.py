"""The latent cache: equal to encoding on the fly, refused when stale, the same bytes by whatever way it was made; and
the batches of a source of one's own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate import PartialState, debug_launcher
from img2dataset_shards import write_shards
from PIL import Image
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.data import emoji
from alter_lib.data.cache import build
from alter_lib.data.cache_files import read_manifest
from alter_lib.data.encode import encode_text
from alter_lib.data.latents import Batches
from alter_lib.data.tars import ALLOW_PIPES
from alter_lib.params import ROOT, Params, ParamsError, load_params

COUNT, CORRUPT, SMALL = 40, 3, 12
SHARDS = [7, 7, 8, 8, 8]  # kept: one of shard 0 is corrupt, one of shard 1 small
IMAGES, ROWS = emoji.load("train")
SMOKE = load_params("params/smoke.yaml").dump()
KEPT = [i for i in range(COUNT) if i not in (CORRUPT, SMALL)]


def params_for(folder: Path, **data) -> Params:
    """Params of a run on the shards below `folder` with the tiny pipeline saved there."""
    own = {"source": "webdataset", "path": folder / "laion", "cache_folder": folder / "cache", "flip": True,
           "cache_dtype": "float32", "min_size": 20, "caption_dropout": 0.0, "limit": None} | data  # fmt: skip
    overrides = {f"data.{key}": str(value) if isinstance(value, Path) else value for key, value in own.items()}
    return load_params(SMOKE, {"backbone.id": str(folder / "pipeline"), "backbone.device": "cpu"} | overrides)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipeline) -> Path:
    """laion/: five shards; pipeline/; cache/: made by one process in one go."""
    folder = tmp_path_factory.mktemp("own")
    write_shards(folder / "laion", COUNT, 8, corrupt=[CORRUPT], small=[SMALL])
    pipeline.save_pretrained(folder / "pipeline")
    PartialState._reset_state()
    build(params_for(folder), pipeline)
    return folder


def batches(pipeline, folder: Path, batch_size: int = 6, **data) -> Batches:
    return Batches(pipeline, params_for(folder, **data).data, batch_size, seed=3)


def contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.iterdir() if path.name != "manifest.json"}


def fault(pipeline, folder: Path, **data) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        batches(pipeline, folder, **data)
    return str(caught.value).splitlines()


def test_the_manifest_counts_what_was_kept_and_what_was_not(folder: Path):
    manifest = read_manifest(folder / "cache")
    assert manifest["complete"] and manifest["shards"] == SHARDS
    assert (manifest["read"], manifest["kept"], manifest["captions"]) == (COUNT, COUNT - 2, COUNT - 2)
    assert manifest["skipped"] == {"small": 1, "unreadable picture": 1}
    sizes = {kind: sum(path.stat().st_size for path in (folder / "cache").glob(f"{kind}-*"))
             for kind in ("index", "latents", "text")}  # fmt: skip
    assert manifest["bytes"] == sizes
    numbers = 4 * (COUNT - 2)  # four bytes each; the rest are headers
    assert 0 < sizes["latents"] - numbers * 4 * (4 * 8 * 8) < 5 * 400  # mean and deviation, also mirrored
    assert 0 < sizes["text"] - numbers * 16 * 16 < 5 * 200


def test_a_cached_latent_is_the_vae_s_posterior_of_the_picture_and_of_its_mirror_image(folder: Path, pipeline):
    data = batches(pipeline, folder)
    picture = Image.fromarray(IMAGES[KEPT[20]])
    for suffix, image in (("", picture), ("_flip", picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        image.save(folder / "one.jpg", quality=95)
        pixels = torch.tensor(np.asarray(Image.open(folder / "one.jpg"))).permute(2, 0, 1)[None]
        with torch.no_grad():
            posterior = pipeline.vae.encode(pixels / 127.5 - 1).latent_dist
        for name in ("mean", "std"):
            expected = getattr(posterior, name)[0] * 0.18215
            # the mirror image of a JPEG is not quite the JPEG of a mirror image
            close = {"rtol": 1e-4, "atol": 1e-5} if not suffix else {"rtol": 0.2, "atol": 0.02}
            torch.testing.assert_close(data.pictures.cache.latents(20, name + suffix), expected, **close)


@pytest.mark.parametrize("off", [{"cache_latents": False}, {"cache_text": False}])
def test_batches_from_the_cache_are_those_encoded_on_the_fly(folder: Path, pipeline, off: dict):
    cached, fresh = batches(pipeline, folder), batches(pipeline, folder, **off)
    for step in range(8):  # beyond one epoch
        ours, theirs = cached.batch(step), fresh.batch(step)
        for name in ("latents", "noise", "condition", "timesteps"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)


def test_half_precision_on_disk_is_the_same_within_its_rounding(folder: Path, pipeline):
    build(params_for(folder, cache_folder=folder / "half", cache_dtype="float16"), pipeline)
    whole, half = batches(pipeline, folder).batch(0), batches(
        pipeline, folder, cache_folder=folder / "half", cache_dtype="float16"
    ).batch(0)  # fmt: skip
    torch.testing.assert_close(half.latents, whole.latents, rtol=2**-9, atol=2**-9)
    torch.testing.assert_close(half.condition, whole.condition, rtol=2**-9, atol=2**-9)
    sizes = [read_manifest(folder / name)["bytes"]["latents"] for name in ("half", "cache")]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("how", [{}, {"shuffle_buffer": 5}, {"cache_latents": False, "crop": "random"}])
def test_two_processes_and_an_interruption_miss_no_sample_and_show_none_twice(folder: Path, pipeline, how: dict):
    """Counted by the captions' states that the batches hold: two ranks, stopped in mid-epoch, then one process."""
    names = [ROWS[i]["name"] for i in KEPT]
    states = encode_text(pipeline, names)
    shown = Counter()

    def count(batch) -> None:
        distances = (batch.condition[:, None] - states[None]).abs().amax((2, 3))
        assert distances.min(1).values.max() < 1e-5
        shown.update(distances.argmin(1).tolist())

    before = batches(pipeline, folder, **how)
    for step in range(4):
        for rank in range(2):
            count(before.batch(step, rank, 2))
    after = batches(pipeline, folder, **how)
    for step in range(4, 19):  # 19 batches of 6 are three epochs of 38
        count(after.batch(step))
        if step == 5:
            assert set(shown.values()) == {1}  # 36 of 38
    assert shown == dict.fromkeys(range(len(KEPT)), 3)


def test_the_shares_of_three_processes_are_the_batch_of_one(folder: Path, pipeline):
    data = batches(pipeline, folder, cache_latents=False, crop="random")
    whole = data.batch(5)
    for rank in range(3):
        share = data.batch(5, rank, 3)
        for name in ("latents", "noise", "condition", "timesteps"):
            torch.testing.assert_close(getattr(share, name), getattr(whole, name)[rank::3])


def test_half_of_the_pictures_are_mirrored_and_none_where_it_is_off(folder: Path, pipeline):
    mirrored, plain = batches(pipeline, folder), batches(pipeline, folder, flip=False)
    flips = [mirrored.view(i, epoch).flip for i in range(38) for epoch in range(12)]
    assert 0.4 < sum(flips) / len(flips) < 0.6  # 456 draws: 4 standard deviations
    assert not any(plain.view(i, 0).flip for i in range(38))


def test_a_limit_shows_the_first_samples_alone_and_encodes_no_further_shard(folder: Path, pipeline):
    assert len(few := batches(pipeline, folder, limit=10)) == 10
    assert sorted(few.permutation(0).tolist()) == list(range(10))
    made = build(params_for(folder, cache_folder=folder / "few", limit=10), pipeline)
    assert made["shards"] == SHARDS[:2] and len(list((folder / "few").glob("latents-*"))) == 2
    assert torch.equal(batches(pipeline, folder, limit=10, cache_folder=folder / "few").batch(3).latents,
                       few.batch(3).latents)  # fmt: skip


def test_a_missing_or_unfinished_cache_says_how_to_make_it(folder: Path, pipeline):
    (line,) = fault(pipeline, folder, cache_folder=folder / "none")
    assert line.endswith("none holds no cache; python -m alter_lib.data.cache --params FILE makes it")


def test_a_stale_cache_is_refused_with_the_keys_that_differ(folder: Path, pipeline):
    lines = fault(pipeline, folder, min_size=None, cache_dtype="float16", resolution=16)
    assert [line.split(": ")[1] for line in lines] == [
        "made with min_size = 20, now None", "made with resolution = 32, now 16",
        "made with cache_dtype = 'float32', now 'float16'",
    ]  # fmt: skip
    (line,) = fault(tiny_pipeline(seed=1), folder, cache_text=False)
    assert "made with vae_hash = " in line
    (folder / "laion2").mkdir()
    (folder / "laion2" / "00000.tar").write_bytes((folder / "laion" / "00000.tar").read_bytes())
    (line,) = fault(pipeline, folder, path=folder / "laion2")
    assert "made with source_hash = " in line


def test_a_cache_is_enough_without_its_pictures(folder: Path, pipeline):
    moved = batches(pipeline, folder, path=folder / "laion_elsewhere")
    assert torch.equal(moved.batch(2).latents, batches(pipeline, folder).batch(2).latents)


def test_another_build_does_not_mix_into_a_cache(folder: Path, pipeline):
    with pytest.raises(ParamsError, match="made with flip = True, now False"):
        build(params_for(folder, flip=False), pipeline)
    with pytest.raises(ParamsError, match="made with text_encoder_hash = "):
        build(params_for(folder, cache_text=False), pipeline)


def test_nothing_usable_is_a_fault_and_no_cache(folder: Path, pipeline):
    with pytest.raises(ParamsError, match="no sample can be used; skipped: 40 low aesthetic score"):
        build(params_for(folder, min_aesthetic=7, cache_folder=folder / "empty"), pipeline)
    assert "unfinished" in fault(pipeline, folder, min_aesthetic=7, cache_folder=folder / "empty")[0]


@pytest.mark.parametrize("name", ["latents-00002.safetensors", "index-00002.arrow", "shard-00002.json"])
@pytest.mark.parametrize("size", [None, 60])
def test_a_shard_that_was_damaged_since_is_named_and_made_again(folder: Path, pipeline, name: str, size: int | None):
    cache = folder / f"{name}-{size}"
    shutil.copytree(folder / "cache", cache)
    if size is None:
        (cache / name).unlink()
    else:
        os.truncate(cache / name, size)
    (line,) = fault(pipeline, folder, cache_folder=cache)
    assert line.startswith(f"data.cache_folder: {cache}: shard 2 is damaged; python -m alter_lib.data.cache ")
    build(params_for(folder, cache_folder=cache), pipeline)
    assert contents(cache) == contents(folder / "cache")


def build_as_one_of_two(params: Params, pipeline) -> None:
    build(params, pipeline)
    assert PartialState().num_processes == 2


def test_two_processes_write_the_same_bytes(folder: Path, pipeline):
    PartialState._reset_state()
    debug_launcher(build_as_one_of_two, (params_for(folder, cache_folder=folder / "two"), pipeline), num_processes=2)
    assert contents(folder / "two") == contents(folder / "cache")
    assert read_manifest(folder / "two") == read_manifest(folder / "cache")


def test_a_killed_cache_goes_on_and_ends_in_the_same_bytes(folder: Path, pipeline, monkeypatch):
    """Shard 3 is a named pipe that nobody writes: the command is stuck there when it is killed."""
    monkeypatch.setenv(ALLOW_PIPES, "1")
    piped, cache = folder / "piped", folder / "killed"
    piped.mkdir()
    for path in (folder / "laion").glob("*.tar"):
        os.link(path, piped / path.name)
    (piped / "00003.tar").unlink()
    os.mkfifo(piped / "00003.tar")
    params = params_for(folder, path=f"pipe:cat {piped}/{{00000..00004}}.tar", cache_folder=cache)
    (folder / "killed.yaml").write_text(yaml.safe_dump(params.dump()))
    command = [sys.executable, "-m", "alter_lib.data.cache", "--params", str(folder / "killed.yaml")]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while not (cache / "shard-00002.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert sorted(path.name for path in cache.glob("shard-*")) == [f"shard-0000{i}.json" for i in range(3)]
    (cache / f".latents-00003.safetensors.{process.pid}.partial").write_bytes(
        b"half"
    )  # what a kill in the middle of a write leaves
    before = {path.name: path.stat().st_mtime_ns for path in cache.glob("*-0000[0-2]*")}
    (piped / "00003.tar").unlink()
    os.link(folder / "laion" / "00003.tar", piped / "00003.tar")
    build(params, pipeline)
    (line,) = fault(pipeline, folder, path="pipe:cat elsewhere.tar", cache_folder=cache)
    assert "made with remote = 'pipe:cat " in line
    assert contents(cache) == contents(folder / "cache")
    assert before == {path.name: path.stat().st_mtime_ns for path in cache.glob("*-0000[0-2]*")}


def test_class_labels_come_from_the_cache_and_are_dropped_to_the_null_label(folder: Path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    pipeline = tiny_dit_pipeline()
    for i in range(12):
        (folder / "imagenet" / f"n0{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[i]).save(folder / "imagenet" / f"n0{i % 3}" / f"{i:02d}.jpeg")
    own = {"source": "imagenet", "path": folder / "imagenet", "cache_folder": folder / "labels", "min_size": None}
    build(params_for(folder, **own), pipeline)
    labels = torch.cat([batches(pipeline, folder, 4, **own).batch(step).condition for step in range(3)])
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    dropped = batches(pipeline, folder, 4, caption_dropout=1.0, **own).batch(0).condition
    assert dropped.tolist() == [1000] * 4
    assert read_manifest(folder / "labels")["bytes"].keys() == {"index", "latents"}
