"""The five questions that a report answers before anything else, in plain words, from the plan and the metrics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import plots, provenance
from .params import Params
from .plan import ExpertPlan
from .plots.layers import letter_of
from .plots.style import description
from .report_cells import data_uri
from .report_findings import COLUMNS, figure, interval

KINDS = {"R": "residual layers (R)", "T": "transformer layers (T)"}
QUALITY = {"fid_alexnet": "lower", "proxy_text_score": "higher", "class_accuracy": "higher"}
HOW_TO_USE = (
    "The folder alter/ of this run is an ordinary diffusers pipeline plus plan.json; any scheduler and number of steps "
    "will do. Loaded by diffusers alone, without its plan, it runs unpruned."
)
USE = """\
from alter_lib import doctor, load_pipeline

pipe = load_pipeline("{folder}")
image = pipe({call}, num_inference_steps={steps}).images[0]
print(doctor(pipe))  # is the plan active, and what does it save?"""


@dataclass(frozen=True)
class Answer:
    """lead: the answer in a few words; text: one paragraph; code, and a picture (data URI, alternative text), where
    they help."""

    question: str
    lead: str
    text: str
    code: str = ""
    picture: str = ""
    alt: str = ""


def answers(params: Params, plan: ExpertPlan, metrics: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """In the order in which a first-time reader asks."""
    drawn, side = plots.overview(plan), params.run_folder / "figures" / "05_side_by_side.png"
    overview = data_uri("image/png", plots.png(drawn))
    pictures = data_uri("image/png", side.read_bytes()) if side.exists() else ""
    return [
        Answer("What was pruned?", "Whole layers, other ones at other timesteps.", what(plan)),
        Answer("How much?", f"{1 - plan.macs_ratio():.1%} of the MACs.", how_much(plan, metrics)),
        Answer("When?", "At every step of sampling; the timestep decides which layers.", when(plan), "",
               overview, description(drawn)),
        Answer("What did it cost in quality?", price(metrics), " ".join(quality(metrics)), "", pictures,
               "pictures at the same prompts and seeds, unpruned and pruned"),
        Answer("How do I use it?", "In two lines.", HOW_TO_USE, usage(params, plan)),
    ]  # fmt: skip


def what(plan: ExpertPlan) -> str:
    letters, used = list(map(letter_of, plan.layer_names)), plan.masks[plan.routing.unique()]
    kinds = " and ".join(f"{letters.count(letter)} {name}" for letter, name in KINDS.items() if letter in letters)
    prunable, skipped = sum(plan.cost.layers) / plan.cost.total, (~used).sum(1).tolist()
    always, never = int(used.all(0).sum()), int((~used.any(0)).sum())
    return (
        f"Of the {plan.backbone_class} {kinds} can be skipped, {prunable:.0%} of its MACs. An expert is "
        f"a choice of these {len(letters)} layers; the weights are shared. The {len(used)} experts in use skip "
        f"{between(skipped)} layers each; {always or 'no'} layers run in all of them, {never or 'no'} "
        "layers in none."
    )


def between(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def how_much(plan: ExpertPlan, metrics: Sequence[Mapping[str, Any]]) -> str:
    shares = [plan.expert_macs()[i] / plan.cost.whole for i in plan.routing.unique().tolist()]
    target = "" if plan.target_ratio is None else f"target {plan.target_ratio:.0%}"
    if plan.latency:  # then the target is of time
        target = f"{plan.achieved_ratio:.1%} of the latency on {plan.latency.device}; {target}"
    visited = [f"{m['value']:.1%} over the timesteps that the sampler visits at {m['steps']} steps"
               for m in metrics if (m["name"], m["method"]) == ("macs_ratio", "alter")]  # fmt: skip
    height, width = plan.cost.resolution
    return (
        f"{plan.macs_ratio():.1%} stay, averaged over all {plan.num_train_timesteps} timesteps "
        f"({target or 'no target'}){''.join(', ' + each for each in visited)}. A single expert runs "
        f"{min(shares):.0%} to {max(shares):.0%}. Counted: {plan.cost.convention} at {height} x {width} latents, share "
        f"of the {'whole network' if plan.cost.denominator == 'total' else 'prunable layers'}."
    )


def when(plan: ExpertPlan) -> str:
    share = plan.routing.bincount(minlength=plan.num_experts) / plan.num_train_timesteps
    macs = [each / plan.cost.whole for each in plan.expert_macs()]
    busiest = [i for i in share.argsort(descending=True).tolist() if share[i] >= 0.05]
    served = ", ".join(f"expert {i} serves {share[i]:.0%} of them ({macs[i]:.0%} of the MACs)" for i in busiest)
    tenth = max(1, plan.num_train_timesteps // 10)
    last = plan.num_train_timesteps
    noise, image = plan.macs_ratio(range(last - tenth, last)), plan.macs_ratio(range(tenth))
    switches = int((plan.routing[1:] != plan.routing[:-1]).sum())
    return (
        f"Each of the {last} timesteps has its expert: {served}. In the noisiest tenth {noise:.0%} of the MACs run, "
        f"in the tenth nearest to the image {image:.0%}. From one timestep to the next the expert changes {switches} "
        "times."
    )


def price(metrics: Sequence[Mapping[str, Any]]) -> str:
    """In a few words: FID-AlexNet over the unpruned network's at as many steps."""
    ratios = [
        f"{m['value']:.2f} times the unpruned network's FID-AlexNet at {m['steps']} steps"
        for m in metrics
        if m["name"] == "fid_alexnet_ratio" and m["method"] == "alter" and m["against"] == f"teacher@{m['steps']}"
    ]
    return f"{'; '.join(ratios)}." if ratios else "Not evaluated yet."


def quality(metrics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One sentence a figure of quality and number of steps: ours beside the unpruned network at as many steps."""
    found = {(m["name"], m["method"], m.get("steps"), m.get("against")): m for m in metrics}
    for (name, method, steps, against), mine in found.items():
        teacher = found.get((name, "teacher", steps, None))
        if name not in QUALITY or method != "alter" or against or not teacher:
            continue
        ratio = found.get((f"{name}_ratio", method, steps, f"teacher@{steps}"))
        times = f", {interval(ratio)} times as much" if ratio else ""
        title = COLUMNS[name][0]
        yield (
            f"{title[0].upper()}{title[1:]} ({QUALITY[name]} is better) at {steps} steps: "
            f"{figure(mine['value'])} pruned, {figure(teacher['value'])} unpruned{times} (N = {figure(mine.get('n'))})."
        )


def usage(params: Params, plan: ExpertPlan) -> str:
    folder = provenance.relative(str(params.run_folder / "alter"))
    call = "[0]" if plan.backbone_class == "DiTTransformer2DModel" else '"red apple"'
    return USE.format(folder=folder, call=call, steps=params.sampling.steps)
