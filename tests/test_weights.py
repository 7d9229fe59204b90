"""Weights below evaluation.weights: found, damaged, missing, and never fetched unless asked to be."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alter_lib.evaluation.clip import Clip
from alter_lib.evaluation.weights import Unavailable, all_of, hub_source, optional_module, state_hash, weight_file
from alter_lib.params import ROOT, Evaluation

URL = "https://example.org/x.pth"


def never(*arguments: object, **keywords: object) -> None:
    raise AssertionError("a download was tried")


def test_a_file_is_taken_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", never)
    options, digest = Evaluation(weights=str(tmp_path)), hashlib.sha256(b"weights").hexdigest()[:8]
    with pytest.raises(Unavailable, match=f"x.pth: put it at {tmp_path}/x.pth, from {URL}"):
        weight_file(options, "x.pth", URL, digest)
    (tmp_path / "x.pth").write_bytes(b"weights")
    assert weight_file(options, "x.pth", URL, digest) == tmp_path / "x.pth"
    (tmp_path / "x.pth").write_bytes(b"weight")
    with pytest.raises(Unavailable, match=rf"x.pth, whole: the sha256 \w+... is not {digest}..."):
        weight_file(options, "x.pth", URL, digest)


def test_a_download_is_checked_and_its_failure_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, path: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        if len(asked) == 1:
            raise OSError("no route to host")
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    options, digest = Evaluation(weights=str(tmp_path), download=True), hashlib.sha256(b"weights").hexdigest()[:8]
    with pytest.raises(Unavailable, match=r"the download failed \(no route to host\)"):
        weight_file(options, "x.pth", URL, digest)
    assert weight_file(options, "x.pth", URL, digest).is_file() and asked == [(URL, digest)] * 2


def test_a_hub_model_is_looked_for_by_its_name_first(tmp_path: Path) -> None:
    options = Evaluation(weights=str(tmp_path))
    assert hub_source(options, "openai/clip") == "openai/clip"
    (tmp_path / "clip").mkdir()
    assert hub_source(options, "openai/clip") == "openai/clip"  # nothing in it
    (tmp_path / "clip" / "config.json").write_text("{}")
    assert hub_source(options, "openai/clip") == tmp_path / "clip"


def test_all_needs_are_said_at_once_and_modules_fail_with_a_line() -> None:
    with pytest.raises(Unavailable) as caught:
        all_of(lambda: 1, lambda: optional_module("no_such_module", "a"), lambda: optional_module("no_such_one", "b"))
    assert [need.what for need in caught.value.needs] == ["package a", "package b"]
    assert all_of(lambda: 1, lambda: 2) == [1, 2]


def test_the_hash_is_of_values_and_dtypes() -> None:
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    assert state_hash(layers[0]) == state_hash(layers[1]) and len(state_hash(layers[0])) == 16
    assert state_hash(layers[0].double()) != state_hash(layers[1])


def test_a_checkpoint_that_lacks_tensors_is_not_made_up(tmp_path: Path) -> None:
    """transformers fills them with random values and goes on."""
    folder = tmp_path / "clip"
    shutil.copytree(ROOT / "assets" / "dual_encoder", folder)
    shutil.copytree(ROOT / "assets" / "tiny_sd" / "tokenizer", folder, dirs_exist_ok=True)
    options = Evaluation(weights=str(tmp_path), clip_model="openai/clip")
    assert Clip(options, "cpu").texts(["ghost"]).shape == (1, 64)
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Unavailable, match=r"openai/clip \(1 of its tensors are not in .*put it at .*clip/"):
        Clip(options, "cpu")
