"""Generation for the metrics: image i depends on (seed, i) and its prompt alone, and nothing is drawn twice."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState, debug_launcher
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.evaluation.generation import (
    Sampler,
    draw_missing,
    generate,
    image_seed,
    make_scheduler,
    sampler_name,
    weights_hash,
)
from alter_lib.evaluation.image_store import ImageStore
from alter_lib.params import ParamsError, Sampling, load_params
from alter_lib.training.accelerator import process_state

PROMPTS = ["red apple", "ghost", "pizza", "house", "snail"]


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def sampler(pipeline, steps: int = 2, identity: object = None, **sampling) -> Sampler:
    return Sampler(
        pipeline, Sampling(**{"guidance_scale": 3.0, "batch_size": 2, "seed": 0} | sampling), steps, identity
    )


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the rounding of batched kernels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def hungry(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than `most` images ask for more memory than there is: a real error."""
    draw = Sampler.draw

    def drawn(self: Sampler, prompts: list, indices: list) -> np.ndarray:
        if len(indices) > most:
            torch.empty(2**46)
        return draw(self, prompts, indices)

    monkeypatch.setattr(Sampler, "draw", drawn)


@pytest.mark.parametrize(("most", "advice"), [(2, "2 do: set sampling.batch_size: 2"), (0, "nor does one")])
def test_out_of_memory_names_what_fits(pipeline, tmp_path: Path, monkeypatch, most: int, advice: str) -> None:
    hungry(most, monkeypatch)
    with pytest.raises(ParamsError) as caught:
        draw_missing(sampler(pipeline, batch_size=5), PROMPTS, ImageStore(tmp_path / "x"), "x")
    (line,) = caught.value.faults
    assert line.startswith("sampling.batch_size: 5 images at a time don't fit into cpu (") and line.endswith(advice)
    assert not (tmp_path / "x").exists()


def test_images_do_not_depend_on_the_batch(pipeline, tmp_path: Path) -> None:
    images = generate(sampler(pipeline, batch_size=5), PROMPTS, tmp_path / "a", "x")
    assert images.shape == (5, 32, 32, 3) and images.dtype == np.uint8
    assert len(np.unique(images.reshape(5, -1), axis=0)) == 5
    for size in (1, 2):
        assert close(generate(sampler(pipeline, batch_size=size), PROMPTS, tmp_path / str(size), "x"), images)
    assert close(generate(sampler(pipeline), PROMPTS, tmp_path / "b", "x", [3, 1]), images[[3, 1]])


def test_a_stochastic_sampler_is_seeded_by_image_too(pipeline, tmp_path: Path) -> None:
    name = "EulerAncestralDiscreteScheduler"
    both = [
        generate(sampler(pipeline, batch_size=size, scheduler=name), PROMPTS, tmp_path / str(size), "x")
        for size in (5, 2)
    ]  # fmt: skip
    assert close(*both)


def test_a_user_gets_the_same_image_from_the_pipeline_itself(pipeline, tmp_path: Path) -> None:
    images = generate(sampler(pipeline, seed=7), PROMPTS, tmp_path, "x")
    generator = torch.Generator().manual_seed(image_seed(7, 3))
    alone = pipeline(
        PROMPTS[3], num_inference_steps=2, guidance_scale=3.0, generator=generator, output_type="np"
    ).images
    assert close(images[3], (alone[0] * 255).round().astype(np.uint8))


def test_seeds_give_different_noise_in_every_run() -> None:
    seeds = [image_seed(seed, i) for seed in (0, 1, 2, 2**32 - 1) for i in (0, 1, 29_999)]
    noise = [torch.randn(2, generator=torch.Generator().manual_seed(seed)).tolist() for seed in seeds]
    assert len({tuple(pair) for pair in noise}) == len(seeds)


def count_draws(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    drawn, draw = [], Sampler.draw
    monkeypatch.setattr(
        Sampler, "draw", lambda self, prompts, indices: drawn.append(list(indices)) or draw(self, prompts, indices)
    )
    return drawn  # fmt: skip


def test_only_what_is_missing_is_drawn(pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = count_draws(monkeypatch)
    images = generate(sampler(pipeline), PROMPTS, tmp_path, "x")
    assert drawn == [[0, 1], [2, 3], [4]]
    assert (generate(sampler(pipeline), PROMPTS, tmp_path, "x") == images).all()
    assert len(drawn) == 3
    next(tmp_path.glob("x-*/000002.npz")).unlink()
    again = generate(sampler(pipeline, batch_size=3), PROMPTS, tmp_path, "x")  # another batch size goes on all the same
    assert drawn[3:] == [[2, 3]] and close(again, images)


def test_an_interrupted_generation_goes_on(pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(sampler(pipeline), PROMPTS, tmp_path / "whole", "x")
    draw = Sampler.draw

    def stop_at_two(self: Sampler, prompts: list[str], indices: list[int]) -> np.ndarray:
        if 2 in indices:
            raise KeyboardInterrupt
        return draw(self, prompts, indices)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Sampler, "draw", stop_at_two)
        generate(sampler(pipeline), PROMPTS, tmp_path / "half", "x")
    drawn = count_draws(monkeypatch)
    assert (generate(sampler(pipeline), PROMPTS, tmp_path / "half", "x") == whole).all()
    assert drawn == [[2, 3], [4]]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"guidance_scale": 1.0}, {"steps": 3}, {"scheduler": "DDIMScheduler"}, {"identity": "plan"}]
)
def test_images_of_other_conditions_are_never_mixed_in(pipeline, tmp_path: Path, change: dict) -> None:
    before = generate(sampler(pipeline), PROMPTS[:2], tmp_path, "x")
    other = generate(sampler(pipeline, **change), PROMPTS[:2], tmp_path, "x")
    assert len(list(tmp_path.glob("x-*"))) == 1  # the stale ones are gone
    if "identity" not in change:
        assert (other != before).any()


def test_the_hash_sees_every_weight() -> None:
    pipeline, same = tiny_pipeline(), tiny_pipeline()
    assert weights_hash(pipeline) == weights_hash(same)
    with torch.no_grad():
        same.text_encoder.get_parameter("final_layer_norm.bias" if hasattr(same.text_encoder, "final_layer_norm")
                                        else "text_model.final_layer_norm.bias")[3] += 1e-3  # fmt: skip
    assert weights_hash(pipeline) != weights_hash(same)


def test_schedulers_keep_the_settings_of_the_pipeline_and_are_put_back(pipeline, tmp_path: Path) -> None:
    own = pipeline.scheduler
    other = make_scheduler(pipeline, "DPMSolverMultistepScheduler")
    assert type(other).__name__ == "DPMSolverMultistepScheduler"
    assert other.config.prediction_type == own.config.prediction_type == "v_prediction"
    generate(sampler(pipeline, scheduler="DDIMScheduler"), PROMPTS[:1], tmp_path, "x")
    assert pipeline.scheduler is own


def test_an_unknown_scheduler_is_one_line(pipeline) -> None:
    with pytest.raises(ParamsError, match="sampling.scheduler: 'NoSuchScheduler' is not a scheduler of diffusers"):
        make_scheduler(pipeline, "NoSuchScheduler")


def noise_and_pixels(
    pipeline, monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Initial noise [count, 4, 8, 8] and images of prompts 0..count-1, drawn in batches of `size`."""
    noise, prepare = [], pipeline.prepare_latents
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(64)]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "prepare_latents", lambda *a, **k: noise.append(prepare(*a, **k)) or noise[-1].clone())
        drawer = sampler(pipeline, steps=1)
        batches = [drawer.draw(prompts, range(first, min(first + size, count))) for first in range(0, count, size)]
    return torch.cat(noise), np.concatenate(batches)


def test_noise_is_bit_identical_and_pixels_are_close_in_batches_of_1_7_and_64(pipeline, monkeypatch) -> None:
    noise, images = noise_and_pixels(pipeline, monkeypatch, 64, 64)
    for size, count in ((1, 8), (7, 14)):
        other, pixels = noise_and_pixels(pipeline, monkeypatch, size, count)
        assert torch.equal(other, noise[:count])
        assert (np.abs(pixels.astype(int) - images[:count].astype(int)) <= 1).mean() >= 0.999


def draw_as_one_of_two(home: Path, prompts: list[str]) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    PartialState._reset_state()  # a fork inherits the one process of the tests before, and would draw everything
    processes = process_state(load_params("params/smoke.yaml"))
    assert processes.num_processes == 2
    draw_missing(sampler(tiny_pipeline()), prompts, ImageStore(home), "x", processes=processes)


def test_one_and_two_processes_draw_the_same_bits(pipeline, tmp_path: Path) -> None:
    prompts = PROMPTS[:5]
    alone = ImageStore(tmp_path / "one")
    draw_missing(sampler(pipeline), prompts, alone, "x")
    debug_launcher(draw_as_one_of_two, (tmp_path / "two", prompts), num_processes=2)
    both = ImageStore(tmp_path / "two")
    assert both.present() == set(range(5))
    assert (both.read(range(5)) == alone.read(range(5))).all()


@pytest.mark.parametrize("image_format", ["npz", "png"])
def test_a_killed_process_leaves_the_same_bits_to_the_next(pipeline, tmp_path: Path, monkeypatch, image_format) -> None:
    """Process 1 of 2 dies after its first batch; one process then draws the rest."""
    whole, cut = (ImageStore(tmp_path / name, image_format) for name in ("whole", "cut"))
    draw_missing(sampler(pipeline), PROMPTS, whole, "x")
    second = SimpleNamespace(process_index=1, num_processes=2, wait_for_everyone=lambda: None)
    draw_missing(sampler(pipeline), PROMPTS, cut, "x", processes=second)
    assert cut.present() == {2, 3}
    drawn = count_draws(monkeypatch)
    draw_missing(sampler(pipeline), PROMPTS, cut, "x")
    assert drawn == [[0, 1], [4]]
    assert (cut.read(range(5)) == whole.read(range(5))).all()


def test_the_sampler_is_named_with_its_procedure() -> None:
    """DDPM by DiTPipeline and DDPM by the DiT repository draw differently."""
    pipe = tiny_dit_pipeline()
    assert sampler_name(pipe, Sampling(scheduler="DDPMScheduler")) == "DDPMScheduler"
    assert sampler_name(pipe, Sampling(procedure="learned_variance")).startswith("DDPMScheduler, learned variance")
