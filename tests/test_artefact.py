"""Weights and plan together: saved, loaded, found, on disk and in a hub's cache."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from planned_pipeline import PIPE, PLAN, UNET, sample

from alter_lib import ExpertPlan, PlanError, apply_plan, load_pipeline, remove_plan, save_pipeline
from alter_lib.inference.patching import patch_of


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    remove_plan(PIPE)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "alter"
    save_pipeline(PIPE, PLAN, folder)
    return folder


def test_the_artefact_is_a_stock_pipeline_with_plan_and_card(artefact: Path) -> None:
    stock = {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert {path.name for path in artefact.iterdir()} == stock | {"plan.json", "README.md"}
    card = (artefact / "README.md").read_text()
    assert "Without its plan this pipeline runs unpruned" in card and f"{PLAN.achieved_ratio:.2%}" in card
    pipe = StableDiffusionPipeline.from_pretrained(artefact)
    assert patch_of(pipe) is None
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(sample(pipe), sample())


def test_an_artefact_keeps_no_folder_of_the_machine_that_made_it(artefact: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(artefact)  # remembers the absolute path
    pipe.vae.register_to_config(_name_or_path="somebody/a-vae")
    save_pipeline(pipe, PLAN, tmp_path / "alter")
    texts = [file.read_text() for file in (tmp_path / "alter").rglob("*.json")]
    assert str(artefact) not in "".join(texts)
    assert "somebody/a-vae" in (tmp_path / "alter" / "vae" / "config.json").read_text()
    assert patch_of(load_pipeline(tmp_path / "alter")).plan == PLAN


def test_load_pipeline(artefact: Path) -> None:
    pipe = load_pipeline(artefact)
    pipe.set_progress_bar_config(disable=True)
    assert patch_of(pipe).plan == PLAN
    apply_plan(PIPE, PLAN)
    assert torch.equal(sample(pipe), sample())


def test_an_artefact_stored_in_half_precision_draws_in_float32(artefact: Path, tmp_path: Path) -> None:
    """transformers keeps the stored dtype, diffusers does not: the two lines of the README must not mix them."""
    pipe = StableDiffusionPipeline.from_pretrained(artefact)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.half()
    save_pipeline(pipe, PLAN, tmp_path / "half")
    loaded = load_pipeline(tmp_path / "half")
    loaded.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder)} == {torch.float32}
    assert sample(loaded).isfinite().all()
    assert load_pipeline(tmp_path / "half", dtype=torch.float16).text_encoder.dtype == torch.float16


def test_the_plan_beside_the_weights_is_found(artefact: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(artefact)
    for target in (pipe, pipe.unet, UNet2DConditionModel.from_pretrained(artefact, subfolder="unet")):
        apply_plan(target)
        assert patch_of(target).plan == PLAN
        remove_plan(target)


def test_an_applied_plan_is_saved_with_the_pipeline(artefact: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(artefact)
    save_pipeline(pipe, None, tmp_path / "again")
    assert ExpertPlan.load(tmp_path / "again") == PLAN
    assert load_pipeline(tmp_path / "again").unet.state_dict().keys() == UNET.state_dict().keys()


def test_missing_plans_and_folders(artefact: Path, tmp_path: Path) -> None:
    shutil.copytree(artefact, tmp_path / "alter")
    (tmp_path / "alter" / "plan.json").unlink()
    with pytest.raises(PlanError, match=r"alter/plan\.json: no such file; without its plan a pipeline runs unpruned"):
        load_pipeline(tmp_path / "alter")
    with pytest.raises(PlanError, match="no such folder, nor a hub id"):
        load_pipeline(tmp_path / "nothing")


def in_hub_cache(artefact: Path, cache: Path, with_plan: bool) -> None:
    """A repository as the hub's client caches it."""
    repository = cache / "models--someone--alter"
    shutil.copytree(artefact, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    if not with_plan:
        (repository / "snapshots" / ("0" * 40) / "plan.json").unlink()


def test_hub_repositories(artefact: Path, tmp_path: Path) -> None:
    in_hub_cache(artefact, tmp_path / "whole", with_plan=True)
    pipe = load_pipeline("someone/alter", cache_dir=tmp_path / "whole", local_files_only=True)
    assert patch_of(pipe).plan == PLAN
    in_hub_cache(artefact, tmp_path / "bare", with_plan=False)
    with pytest.raises(PlanError, match="someone/alter: no plan.json from the hub, .* unpruned"):
        load_pipeline("someone/alter", cache_dir=tmp_path / "bare", local_files_only=True)
