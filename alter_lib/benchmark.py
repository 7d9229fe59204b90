"""What the pruned MACs are worth on the clock: a forward under a plan, and a training step.

    python -m alter_lib.benchmark --params params/tiny_sd.yaml --out results/benchmark/cpu.json

Forward: unpruned and pruned calls take turns within a round, and the ratio is taken round by round, so that a machine
that slows down slows both. Plans: the run's own (weighted by the timesteps that its sampler visits) and seeded random
ones. Training step: execution `sub_batch` against `reference` (the authors' procedure: dense masks, each phase its own
teacher pass) and `masked`, at one and the same plan, in the phase that trains both networks and in the one after T_end.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .backbones import Backbone, load_backbone
from .diagnosis import expert_calls, probe_inputs, timed
from .evaluation.result import write_json
from .inference import apply_plan, remove_plan
from .params import Params, ParamsError, add_params_arguments, load_params, params_from_arguments
from .patching import patch_of
from .plan import CostTable, ExpertPlan, PlanError
from .provenance import command, git_state, hardware, now, versions
from .schedules import visited_timesteps
from .trainer import Trainer

FORMAT = "alter-benchmark/1"
MODES = ("sub_batch", "masked", "reference")


def spread(values: list[float] | np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": low, "q75": high}


def random_mask(costs: CostTable, ratio: float, random: np.random.Generator) -> list[bool]:
    """Layers are left out in random order as long as at least `ratio` of the MACs stays."""
    mask, active = np.ones(len(costs.layers), bool), costs.whole
    for layer in random.permutation(len(mask)):
        if active - costs.layers[layer] >= ratio * costs.whole:
            mask[layer], active = False, active - costs.layers[layer]
    return mask.tolist()


def random_plan(backbone: Backbone, ratio: float, seed: int, num_experts: int = 1) -> ExpertPlan:
    """Random masks at `ratio` of the total MACs, on equal intervals of timesteps."""
    random, total = np.random.default_rng(seed), backbone.num_train_timesteps
    masks = [random_mask(CostTable.of(backbone), ratio, random) for _ in range(num_experts)]
    return ExpertPlan.for_backbone(backbone, torch.tensor(masks), torch.arange(total) * num_experts // total, ratio)


@torch.no_grad()
def time_forward(
    backbone: Backbone, plan: ExpertPlan, visited: list[int], batch_size: int, repeats: int
) -> dict[str, Any]:
    """Seconds of a call under `plan`, averaged over the `visited` timesteps, beside those of an unpruned call."""
    apply_plan(backbone.pipeline, plan)
    patch = patch_of(backbone.pipeline)
    inputs = probe_inputs(backbone.pipeline, backbone.resolution, batch_size)
    calls: dict[int | None, Callable[[], object]] = {**expert_calls(patch, visited, inputs)}
    calls[None] = lambda: patch.denoiser.original(**inputs, return_dict=False)
    shares = {expert: count / len(visited) for expert, count in Counter(plan.expert(t) for t in visited).items()}
    rounds = []
    for _ in range(repeats + 1):
        seconds = {key: timed(call, backbone.denoiser.device) for key, call in calls.items()}
        rounds.append((sum(seconds[expert] * share for expert, share in shares.items()), seconds[None]))
    remove_plan(backbone.pipeline)
    pruned, unpruned = np.array(rounds[1:]).T  # the first round warms up
    ratio = plan.macs_ratio(visited, CostTable.of(backbone))
    return {
        "macs_ratio": ratio,
        "pruned_over_unpruned": spread(pruned / unpruned),
        "pruned_seconds": spread(pruned),
        "unpruned_seconds": spread(unpruned),
    }


def forwards(params: Params, plan: ExpertPlan | None, plans: int, repeats: int) -> dict[str, Any]:
    """The run's plan, if there is one, and `plans` random ones at loss.target_ratio."""
    backbone = load_backbone(params.backbone, cost=params.cost)
    visited = visited_timesteps(backbone.pipeline.scheduler, params.sampling.steps)
    size, found = params.sampling.batch_size, {}
    if plan:
        found["learned"] = time_forward(backbone, plan, visited, size, repeats)
    random = [
        time_forward(backbone, random_plan(backbone, params.loss.target_ratio, seed), visited, size, repeats)
        for seed in tqdm(range(plans), desc="random plans")
    ]
    medians = [each["pruned_over_unpruned"]["median"] for each in random]
    summary = {"median": float(np.median(medians)), "worst": max(medians), "best": min(medians)}
    return found | {"random": summary | {"plans": random}, "batch_size": size}


def pin(trainer: Trainer, plan: ExpertPlan) -> None:
    """Hold the hypernetwork's output at `plan`, noise and updates notwithstanding; what is computed stays the same."""
    net, device = trainer.net, trainer.accelerator.device
    logits = (plan.masks * 12.0 - 6.0 - net.mask_offset).to(
        device
    )  # 6 from the threshold: noise crosses it 1 in 400 times
    routes = (torch.nn.functional.one_hot(plan.routing, plan.num_experts) * 20.0).to(device)
    generate, route = net.generator.forward, net.router.forward
    net.generator.forward = lambda: logits + 0 * generate()
    net.router.forward = lambda e_t: routes + 0 * route(e_t)
    trainer.refresh_masks()


def trainers(params: Params, plan: ExpertPlan | None) -> dict[str, Trainer]:
    """One trainer a mode, all at the same plan: the run's, or random masks on equal intervals."""
    fixed = {"training.hypernetwork_steps": 2, "training.steps": max(4, params.training.steps), "run.name": "benchmark"}
    fixed |= {"training.warmup_steps": 0, "hypernetwork.num_experts": plan.num_experts if plan else 10}
    found = {}
    for mode in MODES:
        trainer = Trainer(load_params(params.dump(), fixed | {"training.execution": mode}))
        pin(trainer, plan or random_plan(trainer.backbone, params.loss.target_ratio, 0, 10))
        found[mode] = trainer
    return found


def training_steps(params: Params, plan: ExpertPlan | None, repeats: int) -> dict[str, Any]:
    """Seconds of a step by phase and mode, and relative to `reference`."""
    modes, found = trainers(params, plan), {}
    for phase, first_step in (("joint", 0), ("backbone", 2)):
        rounds = []
        for _ in tqdm(range(repeats + 1), desc=f"training steps, {phase} phase"):
            for trainer in modes.values():
                trainer.step_count = first_step  # the same batch again and again
            rounds.append([timed(trainer.step, trainer.accelerator.device) for trainer in modes.values()])
        seconds = dict(zip(modes, np.array(rounds[1:]).T, strict=True))
        found[phase] = {mode: {"seconds": spread(values), "over_reference": spread(values / seconds["reference"])}
                        for mode, values in seconds.items()}  # fmt: skip
    plan = modes["sub_batch"].current_plan()
    return found | {"batch_size": params.training.batch_size, "macs_ratio": plan.achieved_ratio}


def benchmark(
    params: Params, plan: ExpertPlan | None, plans: int, repeats: int, training: bool = True
) -> dict[str, Any]:
    """Everything as the JSON holds it. Seconds are wall-clock, ratios of medians are never formed."""
    result = {
        "format": FORMAT,
        "command": command(),
        "date": now(),
        **git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "target_ratio": params.loss.target_ratio,
        "forward": forwards(params, plan, plans, repeats),
    }
    return result | ({"training_step": training_steps(params, plan, repeats)} if training else {})


def lines(result: Mapping[str, Any]) -> list[str]:
    """The result in a few lines."""
    forward, text = result["forward"], []
    if "learned" in forward:
        relative, ratio = forward["learned"]["pruned_over_unpruned"], forward["learned"]["macs_ratio"]
        text.append(f"forward, learned plan: {relative['median']:.3f} of the unpruned time at {ratio:.3f} of the MACs")
    random = forward["random"]
    what = f"forward, {len(random['plans'])} random plans at {result['target_ratio']} of the MACs"
    text.append(f"{what}: median {random['median']:.3f}, worst {random['worst']:.3f} of the unpruned time")
    for phase in ("joint", "backbone") if "training_step" in result else ():
        modes = result["training_step"][phase]
        shares = ", ".join(f"{mode} {modes[mode]['over_reference']['median']:.3f}" for mode in ("sub_batch", "masked"))
        seconds = modes["reference"]["seconds"]["median"]
        text.append(f"training step, {phase} phase, of the reference's {seconds:.3f} s: {shares}")
    return text


def main(command_line: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m alter_lib.benchmark", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    parser.add_argument("--plan", help="plan.json or its folder; default: the run's own, if it has one")
    parser.add_argument("--plans", type=int, default=20, help="random plans (default 20)")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds (default 15)")
    parser.add_argument("--no-training", action="store_true", help="time the forward pass only")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there")
    arguments = parser.parse_args(command_line)
    try:
        params = params_from_arguments(arguments)
        path = arguments.plan or params.run_folder / "alter"
        plan = ExpertPlan.load(path) if arguments.plan or (path / "plan.json").is_file() else None
        result = benchmark(params, plan, arguments.plans, arguments.repeats, not arguments.no_training)
    except (ParamsError, PlanError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.out:
        write_json(arguments.out, result)
    print(*lines(result), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
