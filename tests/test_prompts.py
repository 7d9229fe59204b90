"""Prompt lists: which captions, in which order, under which hash."""

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from alter_lib.evaluation.prompts import PromptList, captions, load_prompts
from alter_lib.params import Evaluation, ParamsError


def options(path: Path | None, protocol: str = "prompts", count: int = 3, **values) -> Evaluation:
    prompts = None if path is None else str(path)
    return Evaluation(**{"protocol": protocol, "prompts": prompts, "num_images": count} | values)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Seven images with two captions each, the second of every image after all of the first."""
    annotations = [{"image_id": 100 + i, "id": i + 50 * j, "caption": f"caption {j} of {i}"}
                   for j in range(2) for i in range(7)]  # fmt: skip
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps({"images": [], "annotations": annotations}))
    return path


def test_coco_takes_the_first_caption_of_images_chosen_as_aptp_s_script_does(coco: Path) -> None:
    prompts = load_prompts(options(coco, "coco2014", 4))
    np.random.seed(42)
    chosen = np.random.choice(7, 4, replace=False)
    assert prompts.ids == tuple(100 + i for i in chosen)
    assert prompts.prompts == tuple(f"caption 0 of {i}" for i in chosen)


def test_a_saved_list_is_taken_as_it_is(coco: Path, tmp_path: Path) -> None:
    chosen = load_prompts(options(coco, "coco2014", 5))
    chosen.save(tmp_path / "list.json")
    again = load_prompts(options(tmp_path / "list.json", "coco2014", 5))
    assert again == chosen and again.digest == chosen.digest
    assert json.loads((tmp_path / "list.json").read_text())["digest"] == chosen.digest
    assert load_prompts(options(tmp_path / "list.json", "coco2014", 2)).prompts == chosen.prompts[:2]


def test_cc3m_reads_captions_before_the_tab(tmp_path: Path) -> None:
    path = tmp_path / "Validation.tsv"
    path.write_text("".join(f"caption {i}\thttp://x/{i}\n" for i in range(6)))
    prompts = load_prompts(options(path, "cc3m", 6))
    assert sorted(prompts.prompts) == [f"caption {i}" for i in range(6)]
    assert all(prompt == f"caption {i}" for i, prompt in zip(prompts.ids, prompts.prompts, strict=True))


def test_own_lists_are_taken_in_order(tmp_path: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("a red apple\n\na ghost\na house\na snail\n")
    assert load_prompts(options(text)).prompts == ("a red apple", "a ghost", "a house")
    frame = pd.DataFrame({"text": ["a", "b", None, "c"], "n": range(4)})
    frame.to_csv(tmp_path / "x.csv")
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        assert load_prompts(options(tmp_path / name, prompt_column="text")).prompts == ("a", "b", "c")


LONG = {
    "x.tsv": ("cc3m", "", "words {:09d}\thttp://x/" + "y" * 60),
    "x.txt": ("prompts", "", "words {:09d} " + "z" * 60),
    "x.csv": ("prompts", "text\n", "words {:09d} " + "z" * 60),
    "x.jsonl": ("prompts", "", '{{"text": "words {:09d} ' + "z" * 60 + '"}}'),
}
ROWS = int(os.environ.get("ALTER_ROWS", 60_000))  # 1000000: the full size


def in_order(prompts: PromptList) -> bool:
    return all(prompt.startswith(f"words {i:09d}") for i, prompt in zip(prompts.ids, prompts.prompts, strict=True))


@pytest.mark.parametrize("name", LONG)
def test_a_long_list_is_read_through(tmp_path: Path, name: str) -> None:
    """Memory does not grow with the rows, but for the 8 bytes of each in the permutation that cc3m's choice is made
    of."""
    path, (protocol, header, line) = tmp_path / name, LONG[name]
    with path.open("w") as file:
        file.write(header)
        file.writelines(line.format(i) + "\n" for i in range(ROWS))
    tracemalloc.start()
    prompts = load_prompts(options(path, protocol, 50, prompt_column="text"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert in_order(prompts)
    chunk = 5e6 if path.suffix == ".jsonl" else 2.5e6  # pandas parses 4096 rows of JSON at a time
    assert path.stat().st_size > 70 * ROWS and peak < chunk + 16 * ROWS, peak


def test_a_long_parquet_list_is_read_in_parts(tmp_path: Path) -> None:
    """One row group, as pandas writes; arrow's own memory, which Python does not see."""
    texts = [LONG["x.txt"][2].format(i) for i in range(2 * ROWS)]
    table = pa.table({"text": texts, "other": texts})
    write_table(table, tmp_path / "x.parquet", row_group_size=len(texts), compression="none", use_dictionary=False)
    del table
    pool = pa.default_memory_pool()
    before, found = pool.bytes_allocated(), captions(tmp_path / "x.parquet", "prompts", "text")
    assert next(found).startswith("words 000000000")
    held = pool.bytes_allocated() - before  # in the middle of the file
    assert sum(1 for _ in found) == 2 * ROWS - 1
    assert (tmp_path / "x.parquet").stat().st_size > 140 * 2 * ROWS and held < 6e6, held


def test_n_images_a_prompt(tmp_path: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("a\nb\nc\n")
    prompts = load_prompts(options(text, count=6, images_per_prompt=3))
    assert prompts.prompts == ("a", "b") and prompts.repeated(3) == ["a", "a", "a", "b", "b", "b"]


@given(st.integers(1, 4000))
def test_imagenet_labels_are_balanced(count: int) -> None:
    times = Counter(load_prompts(options(None, "imagenet", max(count, 2))).prompts)
    assert set(times) <= set(range(1000)) and max(times.values()) - min(times.values()) <= 1


def test_the_hash_sees_order_and_every_prompt() -> None:
    a = PromptList("prompts", "x", "", (0, 1), ("a", "b"))
    others = [a.take([1, 0]), a.take([0]), PromptList("prompts", "x", "", (0, 1), ("a", "B"))]
    assert len({a.digest, *(other.digest for other in others)}) == 4
    assert PromptList("coco2014", "y", "z", (0, 1), ("a", "b")).digest == a.digest


@pytest.mark.parametrize(
    ("name", "text", "protocol", "values", "message"),
    [
        ("x.json", "[1]", "coco2014", {}, "evaluation.prompts: .*x.json: not a file of coco2014"),
        ("x.json", "{}", "coco2014", {}, "no key 'annotations'"),
        ("x.json", "{", "coco2014", {}, "not a file of coco2014"),
        ("x.txt", "a\nb\n", "prompts", {}, "evaluation.num_images: 3 prompts are wanted, .*x.txt has 2"),
        ("x.csv", "a,b\n1,2\n", "prompts", {"prompt_column": "c"}, "c is not a column of x.csv; it has a, b"),
    ],
)
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, name: str, text: str, protocol: str, values: dict, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ParamsError, match=message) as caught:
        load_prompts(options(tmp_path / name, protocol, **values))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_no_bad_input(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="evaluation.prompts: no file"):
        load_prompts(options(tmp_path / "none.json", "coco2017"))
