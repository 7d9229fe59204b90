"""Weights and data that can't be used: one line and exit code 2 by what every command shares, no file changed."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from planned_pipeline import PIPE, PLAN
from safetensors.torch import load_file, save_file
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import load_backbone, load_pipeline, save_pipeline
from alter_lib.common.command_line import BAD_INPUT, DONE, exit_code
from alter_lib.data.cache import build
from alter_lib.data.sources import open_source
from alter_lib.data.tars import ALLOW_PIPES
from alter_lib.evaluation.prompts import load_prompts
from alter_lib.params import Data, Evaluation, load_params


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def line(work: Callable[[], object], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a command prints whose work this is."""
    before = contents(folder)
    capsys.readouterr()
    assert exit_code(lambda: work() and None, debug=False) == BAD_INPUT
    assert contents(folder) == before
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]  # diffusers may have warned before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def weights(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "pipeline"))


UNET = "unet/diffusion_pytorch_model.safetensors"


def truncate(folder: Path, name: str = UNET) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def change(folder: Path, edit: Callable[[dict], object], name: str = UNET) -> None:
    tensors = load_file(folder / name)
    edit(tensors)
    save_file(tensors, folder / name, {"format": "pt"})


def widen(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [8, 16, 32, 32]}))


def without_class(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(path.read_text()[:50])


def half_of_nan(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"conv_in.weight": (tensors["conv_in.weight"] * torch.nan).half()}))


WEIGHTS = {
    "none of a part": (lambda folder: (folder / UNET).unlink(), "diffusion_pytorch_model"),
    "cut off": (truncate, "unet"),
    "cut off in the text encoder": (lambda folder: truncate(folder, "text_encoder/model.safetensors"), "backbone.id"),
    "not safetensors": (lambda folder: (folder / UNET).write_bytes(b"\x80\x04." * 99), "unet"),
    "of another width": (widen, "backbone.id"),
    "one lacks": (lambda folder: change(folder, lambda t: t.pop("conv_in.weight")), "conv_in.weight"),
    "NaN in half precision": (half_of_nan, "unet: conv_in.weight holds NaN or infinity"),
    "infinity": (
        lambda folder: change(folder, lambda t: t["conv_out.bias"].fill_(torch.inf)), "unet: conv_out.bias holds NaN"
    ),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
    "a config cut off": (without_class, "backbone.id"),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_faulty_weights_are_one_line(weights: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    damage, message = WEIGHTS[name]
    damage(weights)
    said = line(lambda: load_backbone(str(weights)), weights, capsys)
    assert said.startswith(f"backbone.id: {weights}") and message in said


def test_sound_weights_load(weights: Path) -> None:
    assert exit_code(lambda: load_backbone(str(weights)) and None, debug=False) == DONE


@pytest.mark.parametrize("harm", ["truncate", "not finite", "remove"])
def test_a_faulty_artefact_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    folder = tmp_path / "alter"
    save_pipeline(PIPE, PLAN, folder)
    if harm == "not finite":
        change(folder, lambda tensors: tensors["conv_out.bias"].fill_(torch.nan))
    else:
        truncate(folder) if harm == "truncate" else (folder / UNET).unlink()
    said = line(lambda: load_pipeline(folder), folder, capsys)
    assert said.startswith(f"{folder}: ")


# --- data -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_cache_outside(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    datasets.disable_progress_bars()


def data(source: str, path: object, **options: object) -> Data:
    return Data(source=source, path=str(path), cache_folder="x", **options)


def opened(source: Data, folder: Path, capsys: pytest.CaptureFixture[str], has_classes: bool = False) -> str:
    return line(lambda: open_source(source, has_classes), folder, capsys)


def metadata(folder: Path, text: str) -> Path:
    (folder / "metadata.jsonl").write_text(text)
    return folder


def test_data_that_are_not_there_or_broken_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOW_PIPES, raising=False)
    cases = {
        "there is no *.tar": data("webdataset", tmp_path),
        "00000.tar": data("webdataset", tmp_path / "00000.tar"),
        "metadata.jsonl": data("image_folder", tmp_path),
        "captions_val2017.json": data("coco", tmp_path, split="val2017"),
        f"{ALLOW_PIPES}=1": data("webdataset", "pipe:touch x; cat {00..01}.tar"),
    }
    for message, source in cases.items():
        assert message in opened(source, tmp_path, capsys)
    assert not Path("x").exists()
    for text, message in {"{": "line 1: ", "[]\n": "line 1: ", '{"text": "a"}\n': "KeyError('file_name')"}.items():
        said = opened(data("image_folder", metadata(tmp_path, text)), tmp_path, capsys)
        assert "a line is a JSON object with file_name" in said and message in said
    assert "no line of" in opened(data("image_folder", metadata(tmp_path, "")), tmp_path, capsys)
    assert "no line of" in opened(data("image_folder", metadata(tmp_path, '{"file_name": "a"}\n')), tmp_path, capsys)
    (tmp_path / "annotations").mkdir()
    for text in ("{", "[]", "{}", '{"annotations": [{}], "images": []}'):
        (tmp_path / "annotations" / "captions_val2017.json").write_text(text)
        assert "not COCO's captions" in opened(data("coco", tmp_path, split="val2017"), tmp_path, capsys)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no table")
    assert opened(data("hub", tmp_path / "x.parquet"), tmp_path, capsys).startswith("data.path: ")


def test_pictures_and_shards_that_can_not_be_read_are_counted_and_named(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Corrupt pictures, one without a caption, a shard that is no tar: nothing is left that could be used."""
    shards = tmp_path / "shards"
    shards.mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture := io.BytesIO(), "png")
    with tarfile.open(shards / "00000.tar", "w") as tar:
        for name, content in {
            "a.png": b"no picture",
            "a.txt": b"x",
            "b.png": picture.getvalue(),
            "b.txt": b" ",
        }.items():
            (member := tarfile.TarInfo(name)).size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (shards / "00001.tar").write_bytes(b"no tar" * 200)
    options = {"data.source": "webdataset", "data.path": str(shards), "data.cache_folder": str(tmp_path / "cache")}
    params = load_params("params/smoke.yaml", {**options, "backbone.id": str(whole), "backbone.device": "cpu",
                                               "data.limit": None})  # fmt: skip
    assert exit_code(lambda: build(params) and None, debug=False) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("data.path: ") and "no sample can be used; skipped: " in said
    assert all(f"1 {reason}" in said for reason in ("no caption", "truncated shard", "unreadable picture"))


def test_a_resolution_that_the_autoencoder_can_not_take_is_one_line(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    options = {"data.source": "image_folder", "data.path": str(tmp_path), "data.cache_folder": str(tmp_path / "cache"),
               "data.resolution": 33, "backbone.id": str(whole), "backbone.device": "cpu"}  # fmt: skip
    params = load_params("params/smoke.yaml", options)
    assert line(lambda: build(params), tmp_path, capsys).startswith("data.resolution: 33 is not a multiple of 4")


PROMPTS = {
    "x.txt": (b"", {}, "prompts are wanted"),
    "x.tsv": (b"\xff\xfe", {"protocol": "cc3m"}, "not a file of cc3m"),
    "x.csv": (b"a,b\n1,2\n3,4\n", {"prompt_column": "text"}, "text is not a column of x.csv; it has a, b"),
    "x.jsonl": (b"{", {"prompt_column": "text"}, "not a file of prompts"),
    "x.parquet": (b"PAR1", {"prompt_column": "text"}, "not a file of prompts"),
    "x.json": (b"{}", {"protocol": "coco2014"}, "no key 'annotations'"),
    "none.txt": (None, {}, "no file "),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_faulty_prompt_list_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, options, message = PROMPTS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    evaluation = Evaluation(**{"protocol": "prompts", "prompts": str(tmp_path / name), "num_images": 2} | options)
    assert message in line(lambda: load_prompts(evaluation), tmp_path, capsys)
