"""Opens `data.source`: folders of pictures with captions or classes, COCO, ImageNet, tar shards, data sets by name."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, List, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from webdataset.shardlists import expand_urls

from ..params import Data, ParamsError, resolve
from .lines import Lines
from .records import Source
from .rows import Columns, StreamSource, TableSource, digest_of
from .tars import TarSource, is_local

SCORE = "AESTHETIC_SCORE"  # as LAION-Aesthetics and img2dataset's copies of it call it
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FILES = Features({"image": Value("string"), "captions": List(Value("string")), "label": Value("int64"),
                  "score": Value("float64")})  # fmt: skip
COLUMNS = Columns("image", "captions", "label", "score")


def open_source(data: Data, has_classes: bool) -> Source:
    """The source of a `data` section. Raises ParamsError where it is not there, broken, or holds no captions (or no
    class labels, as `has_classes` asks for)."""
    if data.source in ("coco", "cc3m") and has_classes:
        raise ParamsError([f"data.source: {data.source} has no class labels, which this backbone wants"])
    if data.source == "imagenet" and not has_classes:
        raise ParamsError(["data.source: imagenet has no captions, which this backbone wants"])
    if data.source in ("webdataset", "cc3m"):
        return TarSource(data.path, data.caption_column, data.aesthetic_column or SCORE)
    return {"image_folder": image_folder, "coco": coco, "imagenet": imagenet, "hub": hub}[data.source](
        data, has_classes
    )


def at_hand(data: Data) -> bool:
    """Whether the files that `data.path` names are on this disk, some of them at least."""
    return is_local(data.path) and any(Path(path).exists() for path in expand_urls(str(resolve(data.path))))


def from_files(folder: Path, rows: list[dict[str, Any]]) -> TableSource:
    """rows: image (path below `folder`), captions, label, score."""
    table = Dataset.from_list(rows, features=FILES)
    return TableSource(table, COLUMNS, digest_of(rows), str(folder))


def existing(path: Path, data: Data) -> Path:
    if not path.exists():
        raise ParamsError([f"data.path: {data.path}: there is no {path}"])
    return path


def image_folder(data: Data, has_classes: bool) -> TableSource:
    """A folder with metadata.jsonl: one {"file_name": ..., "text": ... or "label": ...} a line, as `datasets` reads."""
    path = existing(resolve(data.path) / "metadata.jsonl", data)
    caption, label, score = data.caption_column or "text", data.label_column or "label", data.aesthetic_column or SCORE
    rows = Lines(path, caption, label, score)
    if not (rows.labelled if has_classes else rows.captioned):
        kind, key = ("label", label) if has_classes else ("caption", caption)
        raise ParamsError([f"data.{kind}_column: no line of {path} has {key!r}"])
    return TableSource(rows, COLUMNS, rows.digest, str(path.parent))


def coco(data: Data, has_classes: bool) -> TableSource:
    """COCO's own layout: annotations/captions_<split>.json and the pictures in <split>/; five captions a picture."""
    folder = resolve(data.path)
    annotations = existing(folder / "annotations" / f"captions_{data.split}.json", data)
    captions: dict[int, list[str]] = {}
    try:
        facts = json.loads(annotations.read_text(encoding="utf-8"))
        for one in facts["annotations"]:
            captions.setdefault(one["image_id"], []).append(one["caption"])
        pictures = sorted(facts["images"], key=lambda picture: picture["id"])
        rows = [{"image": p["file_name"], "captions": captions.get(p["id"], []), "label": None, "score": None}
                for p in pictures]  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ParamsError([f"data.path: {annotations}: not COCO's captions: {error!r}"]) from None
    return from_files(existing(folder / data.split, data), rows)


def imagenet(data: Data, has_classes: bool) -> TableSource:
    """One folder a class, labels in the order of their names (of the WordNet ids, as everywhere), or parquet files as
    on the hub (`train-00000-of-00294.parquet`) with columns image and label."""
    folder = existing(resolve(data.path), data)
    if files := sorted(map(str, folder.rglob(f"{data.split or ''}*.parquet"))):
        table = load_dataset("parquet", data_files=files, split="train")
        return table_source(data, table, Columns(data.image_column or "image", None, data.label_column or "label"),
                            [[Path(file).name, Path(file).stat().st_size] for file in files])  # fmt: skip
    folder = existing(folder / (data.split or ""), data)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    rows = [
        {"image": str(path.relative_to(folder)), "captions": [], "label": label, "score": None}
        for label, one in enumerate(classes)
        for path in sorted(one.rglob("*"))
        if path.suffix.lower() in PICTURES
    ]
    if not rows:
        raise ParamsError([f"data.path: {folder} holds neither folders of pictures nor {data.split or ''}*.parquet"])
    return from_files(folder, rows)


def hub(data: Data, has_classes: bool) -> TableSource | StreamSource:
    """A data set by its name on the hub, or a local folder or file that `datasets` reads: parquet, arrow, saved by
    `save_to_disk`, ..."""
    table = load_table(data)
    if isinstance(table, dict):
        if data.split or len(table) > 1:
            raise ParamsError([f"data.split: {data.split!r} is not one of {' | '.join(table)}"])
        (table,) = table.values()
    columns = Columns(
        data.image_column or "image",
        None if has_classes else data.caption_column or "text",
        data.label_column or "label" if has_classes else None,
        None if data.min_aesthetic is None else data.aesthetic_column or SCORE,
    )
    return table_source(data, table, columns, getattr(table, "_fingerprint", None))


def load_table(data: Data) -> Dataset | IterableDataset | DatasetDict:
    path, local = data.path, resolve(data.path)
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            saved = load_from_disk(str(local))
            return saved[data.split] if isinstance(saved, dict) and data.split in saved else saved
        options = {"split": data.split, "streaming": data.streaming}
        if local.suffix in (".parquet", ".arrow") and local.is_file():
            return load_dataset(local.suffix[1:], data_files=str(local), **options)
        return load_dataset(str(local) if local.exists() else path, data.config, **options)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ParamsError([f"data.path: {path}: {reason}"]) from error


def table_source(data: Data, table: Dataset | IterableDataset, columns: Columns, facts: Any) -> Source:
    """Raises ParamsError for each column that is not there."""
    names = table.column_names or list(next(iter(table)))
    wanted = {"image": columns.image, "caption": columns.caption, "label": columns.label, "aesthetic": columns.score}
    bad = [
        f"data.{key}_column: {name!r} is not a column of {data.path}, which has {', '.join(names)}"
        for key, name in wanted.items()
        if name and name not in names
    ]
    if bad:
        raise ParamsError(bad)
    table = table.cast_column(columns.image, Image(decode=False))
    if isinstance(table, IterableDataset):
        return StreamSource(table, columns, digest_of(data.path, data.config, data.split, table.num_shards))
    return TableSource(table, columns, digest_of(facts))
