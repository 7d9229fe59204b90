"""What a cache was made with, and whether it still is what a run needs."""

from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ..common.hashing import weights_hash
from ..params import Data, ParamsError, resolve
from .cache_files import read_manifest, shard_facts
from .encode import resolution_of
from .sources import at_hand

COMMAND = "python -m alter_lib.data.cache --params FILE"
SELECTING = ("source", "config", "split", "image_column", "caption_column", "label_column", "aesthetic_column",
             "min_size", "min_aesthetic", "limit")  # fmt: skip


def num_classes(pipeline: DiffusionPipeline) -> int | None:
    """Class labels of a class-conditional denoiser; None: it takes captions."""
    return pipeline.transformer.config.num_embeds_ada_norm if hasattr(pipeline, "transformer") else None


def settings(pipeline: DiffusionPipeline, data: Data, digest: str | None) -> dict[str, Any]:
    """All that the content of a cache depends on; digest: of the source, None where it can't be looked at."""
    classes = num_classes(pipeline)
    made: dict[str, Any] = {key: getattr(data, key) for key in SELECTING}
    made |= {"source_hash": digest, "remote": None if at_hand(data) else data.path}
    made |= {"condition": "captions" if classes is None else f"{classes} class labels"}
    if data.cache_latents:
        made |= {
            "resolution": resolution_of(pipeline, data.resolution),
            "flip": data.flip,
            "vae_hash": weights_hash(pipeline.vae),
            "scaling_factor": pipeline.vae.config.scaling_factor,
        }
    if data.cache_text and classes is None:
        made |= {"text_encoder_hash": weights_hash(pipeline.text_encoder)}
        made |= {"tokens": pipeline.tokenizer.model_max_length}
    return made | ({"cache_dtype": data.cache_dtype} if data.cache_latents or "tokens" in made else {})


def check(folder: Path, needed: dict[str, Any]) -> None:
    """Raises ParamsError, one line a key, where the manifest of `folder` differs from `needed`."""
    made = read_manifest(folder)["settings"]
    bad = [
        f"{folder}: made with {key} = {made.get(key)!r}, now {value!r}: name another data.cache_folder, or remove it"
        for key, value in needed.items()
        if made.get(key) != value
    ]
    if bad:
        raise ParamsError(bad)


def check_for_training(pipeline: DiffusionPipeline, data: Data, digest: str | None) -> Path:
    """The cache folder of `data`. Raises ParamsError where it is not complete or damaged (the line says how to make
    it), or stale.

    A cache may hold more than a run needs: all samples where the run has a limit, mirrored pictures, text states.
    """
    folder = resolve(data.cache_folder)
    manifest = read_manifest(folder)
    if manifest is None or not manifest["complete"]:
        state = "holds no cache" if manifest is None else "holds an unfinished cache"
        raise ParamsError([f"data.cache_folder: {folder} {state}; {COMMAND} makes it"])
    if damaged := [shard for shard in range(len(manifest["shards"])) if shard_facts(folder, shard) is None]:
        raise ParamsError([f"data.cache_folder: {folder}: shard {damaged[0]} is damaged; {COMMAND} makes it again"])
    needed, made = settings(pipeline, data, digest), manifest["settings"]
    spare = {
        "source_hash": digest is None,
        "remote": made["remote"] is None,
        "limit": made["limit"] is None,
        "flip": not data.flip,
    }
    check(folder, {key: value for key, value in needed.items() if not spare.get(key)})
    return folder
