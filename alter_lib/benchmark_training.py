"""What a training step costs: ours against the authors' procedure, at the same weights, plan, batch and precision.

    python -m alter_lib.benchmark_training --params params/sd21.yaml --device cuda \
        --set backbone.weights=random cost.resolution=[64,64] --out results/benchmark/training_sd21_h100.json

Ours: `training.execution` of the params (sub-batches), one teacher pass a step, latents and text states cached. The
authors': every layer on every sample, and for each phase a teacher pass and an encoding of images and text of its own.
Inputs are random, so `backbone.weights=random` needs neither weights nor data. Both procedures take turns within a
round, on one set of networks and optimizers; the ratio is taken round by round. Where the full size does not fit, e.g.
on a CPU, a fraction of its width stands in (no figure of it is the full size's):

    python -m alter_lib.benchmark_training --params params/sd21.yaml --device cpu --width 0.2 --batch-size 8 \
        --repeats 5 --set backbone.weights=random cost.resolution=[32,32] training.mixed_precision=no \
        training.teacher_dtype=null
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from .backbones.timing import timed
from .benchmark.forward import random_plan, spread
from .benchmark.inputs import Inputs
from .benchmark.narrow import narrowed
from .benchmark.training import pin
from .common.command_line import Parser, exit_code
from .common.files import write_json
from .params import Params, add_params_arguments, load_params, params_from_arguments
from .plan.costs import CostTable
from .projection import FORMAT, days
from .provenance import command, git_state, hardware, now, versions
from .training.trainer import Trainer

PHASES = {"joint": 0, "backbone": 2}  # name: the step that is repeated, with T_end = 2
# Forwards of the denoiser in one step, with r the active share of the MACs: a backward pass is one forward for the
# activations and one for the weights. Ours: teacher, student on all layers and back through the active ones, then
# student forward and back. The authors': teacher and student forward and back, dense, in both phases.
UNITS = {
    ("joint", "ours"): lambda r: 1 + (1 + r) + 3 * r,
    ("backbone", "ours"): lambda r: 1 + 3 * r,
    ("joint", "authors"): lambda r: (1 + 2) + (1 + 3),
    ("backbone", "authors"): lambda r: 1 + 3,
}
TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bf16 peak by its maker, of the SXM boards


def make_trainer(params: Params, batch_size: int) -> tuple[Trainer, Inputs]:
    """A trainer at a random plan with ten experts on equal intervals; its VAE and text encoder in the precision that is
    computed in, as training scripts have them."""
    fixed = {"training.hypernetwork_steps": 2, "training.steps": 4, "training.warmup_steps": 0, "run.name": "benchmark",
             "hypernetwork.num_experts": 10, "training.batch_size": batch_size, "training.num_processes": 1,
             "training.trackers": [], "training.plan": None, "training.order": "joint",
             "training.snapshots": []}  # fmt: skip
    trainer = Trainer(load_params(params.dump(), fixed), batches=object())  # its inputs need its backbone's shapes
    pin(trainer, random_plan(trainer.backbone, params.loss.target_ratio, 0, num_experts=10))
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(params.training.mixed_precision, torch.float32)
    for name in ("vae", "text_encoder"):
        if part := getattr(trainer.backbone.pipeline, name, None):
            part.to(half).eval().requires_grad_(False)
    trainer.batches = Inputs.random(trainer, batch_size)
    return trainer, trainer.batches


class Bench:
    """One step of either procedure, timed."""

    def __init__(self, params: Params, batch_size: int) -> None:
        self.trainer, self.inputs = make_trainer(params, batch_size)
        self.ours, self.device = params.training.execution, self.trainer.device

    def step(self, procedure: str, phase: str) -> dict[str, float]:
        """Its seconds, whole and by phase, and the most memory that was in use, in GiB."""
        trainer, is_ours, found = self.trainer, procedure == "ours", {}
        trainer.execution, self.inputs.encode = (self.ours if is_ours else "reference"), not is_ours
        trainer.step_count = PHASES[phase]

        def call() -> None:
            if phase == "joint" and not is_ours:
                self.inputs.encoded()  # its second phase encodes for itself
            found.update(trainer.step())

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = timed(call, self.device)
        return {"seconds": seconds} | {k: v for k, v in found.items() if k.endswith(("_seconds", "gib"))}

    def phase(self, phase: str, repeats: int) -> dict[str, Any]:
        """Medians and quartiles of both procedures. One that does not fit the memory is left out and says so."""
        rounds: dict[str, list[dict[str, float]]] = {"ours": [], "authors": []}
        found: dict[str, Any] = {}
        for _ in tqdm(range(repeats + 1), desc=f"{phase} phase", unit="round"):
            for procedure in [name for name in rounds if name not in found]:
                try:
                    rounds[procedure].append(self.step(procedure, phase))
                except torch.OutOfMemoryError as error:
                    found[procedure] = {"status": f"out of memory: {str(error).splitlines()[0]}"}
                    self.clean_up()
        for procedure in [name for name in rounds if name not in found]:
            rows = rounds[procedure][1:]  # the first round warms up
            found[procedure] = {"status": "measured"} | {key: spread([row[key] for row in rows]) for key in rows[0]}
            found[procedure] |= self.efficiency(procedure, phase, found[procedure]["seconds"]["median"])
        if all(found[procedure]["status"] == "measured" for procedure in rounds):
            pairs = list(zip(rounds["ours"][1:], rounds["authors"][1:], strict=True))
            found["ours_over_authors"] = {
                key: spread([ours[key] / authors[key] for ours, authors in pairs])
                for key in ("seconds", "gpu_memory_gib")
                if key in pairs[0][0]
            }
        return found

    def clean_up(self) -> None:
        """After a step that broke off: its gradients, features and cached memory are let go."""
        for optimizer in self.trainer.optimizers.values():
            optimizer.optimizer.zero_grad()
        for tap in self.trainer.objective.taps.values():
            tap.take()
        torch.cuda.empty_cache()

    def efficiency(self, procedure: str, phase: str, seconds: float) -> dict[str, float]:
        units = UNITS[phase, procedure](self.active_share)
        size = len(self.inputs.cached.timesteps)
        macs = units * size * self.trainer.backbone.total_macs
        return {"images_per_second": size / seconds, "forward_units": units, "tflops": 2e-12 * macs / seconds}

    @property
    def active_share(self) -> float:
        """r of this batch's timesteps, of the whole network's MACs, whatever the plan's own denominator."""
        timesteps = self.inputs.cached.timesteps.tolist()
        return self.trainer.current_plan().macs_ratio(timesteps, CostTable.of(self.trainer.backbone))


def peak_tflops(device: torch.device, given: float | None) -> float | None:
    """The device's dense half-precision peak: as given, else by its name, else unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return given or next((value for key, value in TFLOPS.items() if key in name), None)


def make_bench(params: Params, batch_size: int, width: float) -> Bench:
    """At `width` times the channels of a vendored backbone, with random weights where that is less than 1."""
    if width == 1:
        return Bench(params, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        narrow = {"backbone.id": str(narrowed(params.backbone.id, width, Path(folder))), "backbone.weights": "random"}
        return Bench(load_params(params.dump(), narrow), batch_size)


def benchmark(
    params: Params, batch_size: int, repeats: int, peak: float | None = None, width: float = 1
) -> dict[str, Any]:
    """Everything as the JSON holds it."""
    bench = make_bench(params, batch_size, width)
    backbone, device, training = bench.trainer.backbone, bench.device, params.training
    peak = peak_tflops(device, peak)
    phases = {name: bench.phase(name, repeats) for name in PHASES}
    for found in (found for phase in phases.values() for found in phase.values() if "tflops" in found):
        found["mfu"] = found["tflops"] / peak if peak else None
    return {
        "format": FORMAT, "command": command(), "date": now(), **git_state(), "versions": versions(),
        "hardware": hardware(), "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else hardware()["cpu"],
        "backbone": {"id": params.backbone.id, "width": width, "weights": params.backbone.weights,
                     "class": backbone.class_name, "latents": list(backbone.resolution),
                     "parameters": sum(p.numel() for p in bench.trainer.student.parameters())},
        "training": {key: getattr(training, key) for key in (
            "execution", "mixed_precision", "teacher_dtype", "optimizer", "lora_rank", "compile", "ema_decay",
            "gradient_checkpointing", "gradient_accumulation_steps")},
        "batch_size": batch_size, "repeats": repeats,
        "macs": {"convention": backbone.macs_convention, "forward": backbone.total_macs,
                 "active_share": bench.active_share,
                 "counted": "multiply-accumulates of the denoiser; backward: one forward for activations, one for "
                            "weights; layers run again for checkpointing, VAE and text encoder are not counted"},
        "peak_tflops": peak,
        "phases": phases,
        "run": {"steps": training.steps, "hypernetwork_steps": training.hypernetwork_steps,
                "batch_size": training.batch_size},
    }  # fmt: skip


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result in a few lines."""
    backbone, run = result["backbone"], result["run"]
    width = "" if backbone["width"] == 1 else f" at {backbone['width']:g} of its width"
    yield f"{backbone['id']}{width} on {result['device']}, batch {result['batch_size']}"
    for name, phase in result["phases"].items():
        for procedure in ("ours", "authors"):
            found = phase[procedure]
            if found["status"] != "measured":
                yield f"{name} phase, {procedure}: {found['status']}"
                continue
            memory = f", {found['gpu_memory_gib']['median']:.1f} GiB" if "gpu_memory_gib" in found else ""
            mfu = f", MFU {found['mfu']:.1%}" if found["mfu"] else ""
            rate = f"{found['seconds']['median']:.3f} s, {found['images_per_second']:.2f} images/s"
            yield f"{name} phase, {procedure}: {rate}{memory}{mfu}"
        for key, ratio in phase.get("ours_over_authors", {}).items():
            yield f"{name} phase, ours over the authors', {key}: {ratio['median']:.3f}"
    if projected := days(result):
        text = ", ".join(f"{count}: {value:.3g}" for count, value in projected.items())
        yield f"days for {run['steps']} steps of {run['batch_size']} by number of such devices: {text}"


def main(command_line: list[str] | None = None) -> int:
    parser = Parser(prog="python -m alter_lib.benchmark_training", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    parser.add_argument("--device", help="in place of backbone.device")
    parser.add_argument("--batch-size", type=int, help="of this device; default: training.batch_size / num_processes")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds (default 10)")
    parser.add_argument("--width", type=float, default=1, metavar="SHARE", help="of the channels of sd21 or dit_xl2")
    parser.add_argument("--peak-tflops", type=float, help="of the device in training.mixed_precision, for the MFU")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there")
    arguments = parser.parse_args(command_line)
    return exit_code(lambda: _main(arguments), arguments.debug, "starts again")


def _main(arguments: argparse.Namespace) -> None:
    params = params_from_arguments(arguments)
    if arguments.device:
        params = load_params(params.dump(), {"backbone.device": arguments.device})
    batch_size = arguments.batch_size or params.training.batch_size // params.training.num_processes
    result = benchmark(params, batch_size, arguments.repeats, arguments.peak_tflops, arguments.width)
    if arguments.out:
        write_json(arguments.out, result)
    print(*lines(result), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
