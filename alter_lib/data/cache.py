"""Encodes a source once: latents (mirrored too) and text states into `data.cache_folder`, for training to memory-map.

python -m alter_lib.data.cache --params params/sd21.yaml --set data.source=webdataset data.path=laion ...
accelerate launch --multi_gpu --num_processes 8 -m alter_lib.data.cache --params ...
torchrun --nproc_per_node 4 -m alter_lib.data.cache --params ...     # CPUs: accelerate launch starts one process there

Each process encodes shards of the source; a shard is written whole or not at all, and the same command goes on after an
interruption. Where data.cache_latents is false, the pictures are decoded once to find those that can't be used.
"""

import shutil
import sys
import time

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from ..backbones import load_backbone
from ..common.command_line import Parser, exit_code
from ..params import Params, ParamsError, add_params_arguments, params_from_arguments, resolve
from ..params.data import EMBEDDED
from ..training.accelerator import process_state
from . import cache_files as files
from .cache_builder import Builder, readable
from .settings import check, num_classes, settings
from .sources import open_source


def build(params: Params, pipeline: DiffusionPipeline | None = None) -> dict:
    """Make or go on with the cache of `data`; returns its manifest. pipeline: the loaded backbone, None: load it.

    Raises ParamsError, one line a fault.
    """
    if params.data.source in EMBEDDED:
        raise ParamsError([f"data.source: {params.data.source} is embedded: it is encoded when training starts"])
    state = process_state(params)
    torch.manual_seed(params.run.seed)  # as training does: random weights must be the same ones
    pipeline = pipeline or load_backbone(params.backbone, device=str(state.device), cost=params.cost).pipeline
    source, folder = open_source(params.data, num_classes(pipeline) is not None), resolve(params.data.cache_folder)
    made = settings(pipeline, params.data, source.digest)
    if manifest := files.read_manifest(folder):
        check(folder, dict.fromkeys(manifest["settings"]) | made)
    state.wait_for_everyone()
    if state.is_main_process and not manifest:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_manifest(folder, made, [], complete=False)
    state.wait_for_everyone()
    builder = Builder(pipeline, params.data, source, folder)
    if state.is_main_process:
        print(expected(builder), flush=True)
    encode_all(builder, state)
    state.wait_for_everyone()
    return finish(builder, made) if state.is_main_process else files.read_manifest(folder)


def encode_all(builder: Builder, state: PartialState) -> None:
    """This process' share of the shards that are not there yet."""
    folder, rank, world = builder.folder, state.process_index, state.num_processes
    count, shards, limit = builder.source.count, len(builder.source), builder.data.limit
    there = {shard: facts for shard in range(rank, shards, world) if (facts := files.shard_facts(folder, shard))}
    bar = tqdm(
        total=count and count // world,
        initial=sum(facts["read"] for facts in there.values()),
        desc=f"encoding, process 1 of {world}" if world > 1 else "encoding",
        unit="image",
        disable=not state.is_main_process,
    )
    for shard in range(rank, shards, world):
        if limit and sum(facts["kept"] for facts in files.finished(folder, shards, limit)) >= limit:
            break
        if shard not in there:
            builder.shard(shard, bar.update)
    bar.close()


def finish(builder: Builder, made: dict) -> dict:
    """The complete manifest. Raises ParamsError where no sample of the source could be used."""
    shards = files.finished(builder.folder, len(builder.source), builder.data.limit)
    manifest = files.write_manifest(builder.folder, made, shards, complete=any(facts["kept"] for facts in shards))
    skipped = ", ".join(f"{count} {reason}" for reason, count in manifest["skipped"].items()) or "none"
    if not manifest["kept"]:
        raise ParamsError([f"data.path: {builder.data.path}: no sample can be used; skipped: {skipped}"])
    sizes = ", ".join(f"{kind} {readable(size)}" for kind, size in manifest["bytes"].items())
    print(f"{builder.folder}: {manifest['kept']} of {manifest['read']} samples (skipped: {skipped}); {sizes}")
    return manifest


def expected(builder: Builder) -> str:
    """One line on the disk that the cache will take, before it is made."""
    count = builder.source.count or 1000
    count = min(count, builder.data.limit or count)
    sizes = ", ".join(f"{kind} {readable(size * count)}" for kind, size in builder.bytes_per_sample().items())
    free = readable(shutil.disk_usage(builder.folder).free)
    per = f"{count} samples" if builder.source.count else "each 1000 samples"
    return f"{per} of one caption take about: {sizes or 'an index alone'}; {free} are free"


def main() -> int:
    """Exit codes: 0 done; 2 bad input, one line a fault; 130 interrupted, to go on from the shards that are there."""
    parser = Parser(prog="python -m alter_lib.data.cache", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    options, started = parser.parse_args(), time.perf_counter()

    def work() -> None:
        build(params_from_arguments(options))
        print(f"{time.perf_counter() - started:.0f} s")

    return exit_code(work, options.debug, "goes on with the next shard")


if __name__ == "__main__":
    sys.exit(main())
