"""Tar shards as img2dataset writes them (WebDataset): `key.jpg`, `key.txt`, `key.json`, and `key.cls` for labels."""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys

from ..params import ParamsError, resolve
from .records import Record

ALLOW_PIPES = "ALTER_ALLOW_PIPES"
SUFFIXES = ("jpg", "jpeg", "png", "webp")


class TarSource:
    """path: a folder of *.tar, or shards in WebDataset's notation, local or not (`{00000..00331}.tar`,
    `pipe:aws s3 cp s3://bucket/00000.tar -`). Raises ParamsError where no shard is there."""

    def __init__(self, path: str, caption_key: str | None, score_key: str) -> None:
        self.urls = find_shards(path)
        self.caption_key, self.score_key = caption_key, score_key
        sizes = [[Path(url).name, Path(url).stat().st_size if is_local(url) else None] for url in self.urls]
        self.digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
        self.count = successes(self.urls)

    def __len__(self) -> int:
        return len(self.urls)

    def read(self, shard: int) -> Iterator[Record]:
        files = members(self.urls[shard])
        return map(self.record, group_by_keys(files, handler=lambda error: True))  # of two files of one name, the first

    def record(self, sample: dict) -> Record:
        """One group of members, each (content, offset in the shard)."""
        suffix = next((name for name in SUFFIXES if name in sample), None)
        if suffix is None:
            return Record(fault="truncated shard" if "truncated" in sample else "no picture")
        image, offset = sample[suffix]
        try:
            facts = json.loads(sample["json"][0]) if "json" in sample else {}
            label = int(sample["cls"][0]) if "cls" in sample else None
            text = sample["txt"][0].decode() if "txt" in sample else facts.get("caption")
            score = facts.get(self.score_key)
            score = None if score is None else float(score)
        except ValueError:  # of json, int, float and UTF-8 alike
            return Record(fault="unreadable text")
        caption = facts.get(self.caption_key) if self.caption_key else text
        sides = [facts[key] for key in ("original_width", "original_height") if facts.get(key)]
        captions = (caption.strip(),) if caption and caption.strip() else ()
        return Record(image, (offset, len(image)), captions, label, min(sides, default=None), score)

    def image(self, shard: int, place: tuple[int, int]) -> bytes:
        with open(self.urls[shard], "rb") as file:
            file.seek(place[0])
            return file.read(place[1])


def is_local(url: str) -> bool:
    return not urlparse(url).scheme


def find_shards(path: str) -> list[str]:
    """The shards that `data.path` names, sorted where it is a folder.

    webdataset hands `pipe:` to a shell. A params file must not be able to: who runs it allows that in the environment.
    """
    folder = resolve(path) if is_local(path) else None
    if folder and folder.is_dir():
        urls = sorted(map(str, folder.glob("*.tar")))
    else:
        urls = expand_urls(str(folder or path))
    if os.environ.get(ALLOW_PIPES) != "1" and any(urlparse(url).scheme == "pipe" for url in urls):
        raise ParamsError([f"data.path: {path}: runs a shell command; {ALLOW_PIPES}=1 in the environment allows it"])
    missing = [name for name in urls if folder and not Path(name).is_file()]
    if missing or not urls:
        raise ParamsError([f"data.path: {path}: there is no {missing[0] if missing else '*.tar in this folder'}"])
    return urls


def members(url: str) -> Iterator[dict]:
    """The files of a shard in webdataset's form, each with its offset; a shard that breaks off ends in one more."""
    try:
        with gopen(url) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                if info.isfile():
                    content = tar.extractfile(info).read()
                    yield {"fname": info.name, "data": (content, info.offset_data), "__url__": url}
                tar.members = []  # tarfile would keep all of them
    except tarfile.TarError:
        yield {"fname": "end.truncated", "data": b"", "__url__": url}


def successes(urls: list[str]) -> int | None:
    """Samples in all shards by the `00000_stats.json` that img2dataset writes beside each; None where one lacks."""
    stats = [Path(url).with_name(Path(url).stem + "_stats.json") for url in urls]
    if not all(is_local(url) and path.is_file() for url, path in zip(urls, stats, strict=True)):
        return None
    return sum(json.loads(path.read_text())["successes"] for path in stats)
