"""Every source is read from files as they are in the wild: tar shards, folders, COCO's layout, parquet."""

import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
from img2dataset_shards import jpeg, score, write_shards
from PIL import Image

from alter_lib.data import emoji, rows
from alter_lib.data.records import Record, Source
from alter_lib.data.sources import open_source
from alter_lib.data.tars import ALLOW_PIPES
from alter_lib.data.transforms import Selection, decode
from alter_lib.params import Data, ParamsError, load_params

IMAGES = emoji.load("train")[0][:12]


@pytest.fixture(autouse=True)
def _no_cache_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()


def data(source: str, path: Path, **options) -> Data:
    return Data(source=source, path=str(path), cache_folder=str(path / "cache"), **options)


def records(source: Source) -> list[Record]:
    return [record for shard in range(len(source)) for record in source.read(shard)]


def fault(source: Data, has_classes: bool = False) -> str:
    with pytest.raises(ParamsError) as caught:
        open_source(source, has_classes)
    (line,) = str(caught.value).splitlines()
    return line


def same_pictures(source: Source, expected: np.ndarray) -> None:
    """Read in order, and found again by place: each is nearest to the one that was written (JPEG changes pixels)."""
    for shard in range(len(source)):
        for record in source.read(shard):
            again = np.asarray(decode(source.image(shard, record.place)))
            assert (again == np.asarray(decode(record.image))).all()
    pixels = np.stack([np.asarray(decode(record.image)) for record in records(source)]).astype(int)
    distances = np.abs(pixels[:, None] - expected[None]).mean((2, 3, 4))
    assert (distances.argmin(1) == np.arange(len(expected))).all() and distances.diagonal().max() < 15


def test_tar_shards_of_img2dataset(tmp_path: Path):
    captions = write_shards(tmp_path / "laion", 12, 5)
    source = open_source(data("webdataset", tmp_path / "laion"), False)
    assert len(source) == 3 and source.count == 12
    found = records(source)
    assert [record.captions for record in found] == [(caption,) for caption in captions]
    assert [record.score for record in found] == [pytest.approx(score(i)) for i in range(12)]
    assert {record.size for record in found} == {32}
    same_pictures(source, IMAGES)


def test_shards_may_be_named_in_braces_and_read_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ALLOW_PIPES, "1")
    write_shards(tmp_path / "laion", 12, 5)
    braces = open_source(data("cc3m", tmp_path / "laion" / "{00000..00001}.tar"), False)
    assert len(records(braces)) == 10
    pipe = open_source(
        Data(source="webdataset", path=f"pipe:cat {tmp_path}/laion/{{00001..00002}}.tar", cache_folder="x"), False
    )
    assert [r.captions for r in records(pipe)] == [r.captions for r in records(braces)[5:]] + [
        (row["name"],) for row in emoji.load("train")[1][10:12]
    ]


def test_what_is_wrong_in_a_shard_is_told_sample_by_sample(tmp_path: Path):
    write_shards(tmp_path / "laion", 12, 12, corrupt=[2], small=[4])
    with tarfile.open(tmp_path / "laion" / "00000.tar", "a") as tar:
        picture = jpeg(IMAGES[0])
        for name, content in {"a.txt": b"no picture", "b.jpg": picture, "c.jpg": picture, "c.json": b"{",
                              "d.jpg": picture, "d.txt": b" "}.items():  # fmt: skip
            (member := tarfile.TarInfo(name)).size = len(content)
            tar.addfile(member, io.BytesIO(content))
    wanted = data("webdataset", tmp_path / "laion", min_size=20, min_aesthetic=5.3)
    selection = Selection(wanted, 32, None)
    found = [selection.prepare(record) for record in records(open_source(wanted, False))]
    low, whole = "low aesthetic score", (32, 32, 3)
    assert [x if isinstance(x, str) else x.shape for x in found] == [
        *[low] * 3, whole, "small", *[whole] * 7, "no picture", "no caption", "unreadable text", "no caption",
    ]  # fmt: skip


def test_a_shard_that_breaks_off_yields_what_is_whole(tmp_path: Path):
    write_shards(tmp_path / "laion", 12, 12)
    path = tmp_path / "laion" / "00000.tar"
    path.write_bytes(path.read_bytes()[:20000])
    *whole, last = records(open_source(data("webdataset", tmp_path / "laion"), False))
    assert last.fault == "truncated shard"
    assert 1 < len(whole) < 12 and [r.captions for r in whole[:-1]] == [
        (row["name"],) for row in emoji.load("train")[1][: len(whole) - 1]
    ]


def write_folder(folder: Path, lines: list[dict]) -> None:
    folder.mkdir()
    for i, line in enumerate(lines):
        Image.fromarray(IMAGES[i]).save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_folder_with_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows, "ROWS_PER_SHARD", 3)
    lines = [{"file_name": f"{i}.png", "text": [f"a {i}", ""], "label": i, "AESTHETIC_SCORE": i} for i in range(7)]
    write_folder(tmp_path / "mine", lines)
    source = open_source(data("image_folder", tmp_path / "mine"), False)
    assert len(source) == 3
    assert [(r.captions, r.label, r.score) for r in records(source)] == [((f"a {i}",), i, i) for i in range(7)]
    same_pictures(source, IMAGES[:7])


def test_a_folder_is_told_from_another_by_its_rows(tmp_path: Path):
    def digest(name: str, text: str) -> str:
        write_folder(tmp_path / name, [{"file_name": "0.png", "text": text}])
        return open_source(data("image_folder", tmp_path / name), False).digest

    assert digest("a", "x") == digest("b", "x") != digest("c", "y")


def test_a_row_of_metadata_is_found_by_its_number(tmp_path: Path):
    """Line ends of Windows, none at the end, and a line separator within a caption."""
    lines = [{"file_name": f"{i}.png", "text": f"a\u2028{i}", "label": None, "AESTHETIC_SCORE": None} for i in range(5)]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode())
    source = open_source(data("image_folder", tmp_path), False)
    assert [r.captions for r in records(source)] == [(f"a\u2028{i}",) for i in range(5)]
    for i in (3, 0, 4, 2, 2):
        assert source.image(0, (i, 0)) == str(tmp_path / f"{i}.png")
    whole = [{"image": f"{i}.png", "captions": [f"a\u2028{i}"], "label": None, "score": None} for i in range(5)]
    assert source.digest == rows.digest_of(whole)  # that of a list of all rows: caches made so far stay valid


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"file_name": 7}, "file_name: 7: Input should be a valid string"),
        ({"file_name": "a", "text": ["a", 1]}, "text: 1: Input should be a valid string"),
        ({"file_name": "a", "label": "cat"}, "label: 'cat': Input should be a valid integer"),
        ({"file_name": "a", "AESTHETIC_SCORE": "x"}, "AESTHETIC_SCORE: 'x': Input should be a valid number"),
        (b"\xff{}", "can't decode byte 0xff in position 0: invalid start byte; a line is a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: dict | bytes, message: str):
    bad = line if isinstance(line, bytes) else json.dumps(line).encode()
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a", "text": "b"}\n' * 2 + bad + b"\n")
    said = fault(data("image_folder", tmp_path))
    assert said.startswith(f"{tmp_path / 'metadata.jsonl'}: line 3: ") and message in said


def test_a_long_folder_is_read_row_by_row(tmp_path: Path):
    """ALTER_ROWS=1000000 for the full size. What is held of a row is one integer."""
    count = int(os.environ.get("ALTER_ROWS", 60_000))
    with (tmp_path / "metadata.jsonl").open("w") as file:
        file.writelines(json.dumps({"file_name": f"{i}.png", "text": f"{i} " + "z" * 60}) + "\n" for i in range(count))
    tracemalloc.start()
    source = open_source(data("image_folder", tmp_path), False)
    found = [next(iter(source.read(shard))).captions[0].split()[0] for shard in range(len(source))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [str(i) for i in range(0, count, rows.ROWS_PER_SHARD)] and source.count == count
    assert peak < 0.7e6 + 10 * count, peak


def test_a_faulty_folder_is_named(tmp_path: Path):
    write_folder(tmp_path / "mine", [{"file_name": "0.png", "text": "x"}])
    assert "there is no" in fault(data("image_folder", tmp_path / "none"))
    assert "no line of" in fault(data("image_folder", tmp_path / "mine", caption_column="caption"))
    assert "label_column" in fault(data("image_folder", tmp_path / "mine"), has_classes=True)
    with (tmp_path / "mine" / "metadata.jsonl").open("a") as file:
        file.write("{}\n")
    assert "metadata.jsonl: line 2: KeyError('file_name')" in fault(data("image_folder", tmp_path / "mine"))


def test_coco_has_several_captions_a_picture(tmp_path: Path):
    for folder in ("annotations", "val2017"):
        (tmp_path / folder).mkdir()
    pictures = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (7, 3)]
    captions = [{"image_id": i, "id": n, "caption": f"{i} {n}\n"} for n, i in enumerate((3, 7, 3))]
    facts = json.dumps({"images": pictures, "annotations": captions})
    (tmp_path / "annotations" / "captions_val2017.json").write_text(facts)
    for i in (7, 3):
        (tmp_path / "val2017" / f"{i:012d}.jpg").write_bytes(jpeg(IMAGES[i]))
    source = open_source(data("coco", tmp_path, split="val2017"), False)
    assert [record.captions for record in records(source)] == [("3 0", "3 2"), ("7 1",)]
    same_pictures(source, IMAGES[[3, 7]])
    assert "has no class labels" in fault(data("coco", tmp_path, split="val2017"), has_classes=True)


def test_imagenet_folders_are_labelled_in_the_order_of_their_names(tmp_path: Path):
    for i, name in enumerate(("n03", "n01", "n02", "n01")):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name / f"{i}.JPEG").write_bytes(jpeg(IMAGES[i]))
    source = open_source(data("imagenet", tmp_path, split="train"), True)
    assert [record.label for record in records(source)] == [0, 0, 1, 2]
    same_pictures(source, IMAGES[[1, 3, 2, 0]])
    (tmp_path / "val").mkdir()
    assert "holds neither folders of pictures nor val*.parquet" in fault(data("imagenet", tmp_path, split="val"), True)


def table(labels: bool) -> datasets.Dataset:
    content = {"image": [{"bytes": jpeg(image), "path": None} for image in IMAGES]}
    content |= {"label": [i % 3 for i in range(12)]} if labels else {"words": [f"word {i}" for i in range(12)]}
    return datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())


def test_imagenet_parquet(tmp_path: Path):
    table(labels=True).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    table(labels=True).select(range(2)).to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    source = open_source(data("imagenet", tmp_path, split="train"), True)
    assert [record.label for record in records(source)] == [i % 3 for i in range(12)]
    same_pictures(source, IMAGES)


@pytest.mark.parametrize("form", ["folder", "file", "saved", "stream"])
def test_tables_that_datasets_reads(tmp_path: Path, form: str):
    path = tmp_path / "set"
    if form == "saved":
        table(labels=False).save_to_disk(str(path))
    else:
        path.mkdir()
        for i in range(2):
            table(labels=False).shard(2, i, contiguous=True).to_parquet(str(path / f"train-0000{i}-of-00002.parquet"))
    path = path / "train-00000-of-00002.parquet" if form == "file" else path
    wanted = Data(source="hub", path=str(path), cache_folder="x", caption_column="words", streaming=form == "stream")
    source = open_source(wanted, False)
    expected = [(f"word {i}",) for i in range(6 if form == "file" else 12)]
    assert [record.captions for record in records(source)] == expected
    if form == "stream":
        assert len(source) == 2
    else:
        same_pictures(source, IMAGES[: len(expected)])


def test_a_column_or_split_that_is_not_there_is_named(tmp_path: Path):
    table(labels=False).to_parquet(str(tmp_path / "train.parquet"))
    assert "'text' is not a column of" in (line := fault(data("hub", tmp_path))) and line.endswith("image, words")
    assert "val" in fault(data("hub", tmp_path, split="val"))
    assert "there is no" in fault(data("webdataset", tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "x"}, "data.path: 'x' does not go with source emoji"),
        ({"flip": True}, "data.flip: True does not go with source emoji"),
        ({"source": "webdataset", "cache_folder": "x"}, "data.path: missing; source webdataset needs it"),
        ({"source": "coco", "path": "x", "cache_folder": "x"}, "data.split: None is not one of train2014 |"),
        ({"source": "cc3m", "path": "x", "cache_folder": "x", "split": "a"}, "data.split: 'a' does not go with"),
        ({"source": "hub", "path": "x", "cache_folder": "x", "crop": "random"}, "data.crop: random needs"),
        ({"source": "cc3m", "path": "pipe:cat a", "cache_folder": "x", "cache_latents": False}, "elsewhere"),
        ({"source": "laion"}, "data.source: 'laion' is not one of emoji | fashion | image_folder | webdataset | hub"),
    ],
)
def test_a_key_that_does_not_go_with_the_source_is_one_line(values: dict, message: str):
    with pytest.raises(ParamsError) as caught:
        load_params("params/tiny_sd.yaml", {f"data.{key}": value for key, value in values.items()})
    (line,) = str(caught.value).splitlines()
    assert message in line
