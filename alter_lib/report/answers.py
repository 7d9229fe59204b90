"""The five questions that a report answers before anything else, in plain words, from the plan and the metrics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from .. import plots, provenance
from ..params import Params
from ..plan import ExpertPlan
from ..plan.warnings import largest_distinct
from ..plots.layers import blocks, letter_of
from ..plots.style import description
from .cells import data_uri
from .findings import COLUMNS, at_equal_macs, figure, interval

KINDS = {"R": "residual layers (R)", "T": "transformer layers (T)", "": "transformer blocks"}
QUALITY = {"fid_alexnet": "lower", "proxy_text_score": "higher", "class_accuracy": "higher"}
MEANS = {
    "fid_alexnet": "how far the pictures are from real ones; made with AlexNet, it compares with no published FID",
    "proxy_text_score": "100 x cosine of picture and caption to the embedded judge",
    "class_accuracy": "share of the pictures in which the embedded classifier sees the class asked for",
}
HOW_TO_USE = (
    "The folder alter/ of this run is an ordinary diffusers pipeline plus plan.json; any scheduler and number of steps "
    "will do. Loaded by diffusers alone, without its plan, it runs unpruned. Paths count from the repository's folder."
)
USE = """\
from alter_lib import doctor, load_pipeline

pipe = load_pipeline("{folder}")
image = pipe({call}, num_inference_steps={steps}, guidance_scale={guidance:g}).images[0]
print(doctor(pipe))  # is the plan active, and what does it save?"""


@dataclass(frozen=True)
class Answer:
    """lead: the answer in a few words; text: one paragraph; code, and a picture (data URI, alternative text, caption),
    where they help."""

    question: str
    lead: str
    text: str
    code: str = ""
    picture: str = ""
    alt: str = ""
    caption: str = ""


def answers(params: Params, plan: ExpertPlan, metrics: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """In the order in which a first-time reader asks."""
    drawn, side = plots.overview(plan), params.run_folder / "figures" / "05_side_by_side.png"
    overview = data_uri("image/png", plots.png(drawn))
    pictures = data_uri("image/png", side.read_bytes()) if side.exists() else ""
    return [
        Answer("What was pruned?", f"Whole layers, {changes(plan)}.", what(plan)),
        Answer("How much?", f"{1 - plan.macs_ratio():.1%} of the MACs.", how_much(plan, metrics)),
        Answer("When?", f"At every step of sampling, {changes(plan)}.", when(plan), "",
               overview, description(drawn), "Which layers run, and when"),
        Answer("What did it cost in quality?", price(metrics), " ".join(quality(metrics)), "", pictures,
               "pictures at the same prompts and seeds, unpruned and pruned", "The same prompts and seeds"),
        Answer("How do I use it?", "In two lines.", HOW_TO_USE, usage(params, plan)),
    ]  # fmt: skip


def what(plan: ExpertPlan) -> str:
    letters = [letter_of(name).strip("0123456789") for name in plan.layer_names]  # a DiT's blocks have numbers alone
    used = plan.masks[plan.routing.unique()]
    kinds = " and ".join(f"{letters.count(letter)} {name}" for letter, name in KINDS.items() if letter in letters)
    prunable, skipped = sum(plan.cost.layers) / plan.cost.total, (~used).sum(1).tolist()
    always, never = int(used.all(0).sum()), int((~used.any(0)).sum())
    places = ", ".join(f"{share:.0%} in block {block}" for block, share in savings(plan)[:3] if share)
    return (
        f"Of the {plan.backbone_class} {kinds} can be skipped, {prunable:.0%} of its multiply-accumulates (MACs). "
        f"An expert is a choice of these {len(letters)} layers; the weights are shared. The {len(used)} experts in use "
        f"skip {between(skipped)} layers each; {always or 'no'} layers run in all of them, {never or 'no'} "
        f"layers in none." + f" Of what is saved, {places}." * bool(places)
    )


def changes(plan: ExpertPlan) -> str:
    """Whether the experts in use are more than copies of one."""
    distinct = len(largest_distinct(plan.masks.tolist(), plan.routing.unique().tolist()))
    return "other ones at other timesteps" if distinct > 1 else "the same ones at all timesteps, or all but one of them"


def savings(plan: ExpertPlan) -> list[tuple[str, float]]:
    """(block, its share of the MACs that are skipped over all timesteps), the largest first."""
    skipped = (~plan.masks[plan.routing]).double().mean(0) * torch.tensor(plan.cost.layers)
    whole = skipped.sum().clamp(min=1e-12)  # a plan that skips nothing saves 0 everywhere
    found = [(name, float(skipped[first : last + 1].sum() / whole)) for name, first, last in blocks(plan.layer_names)]
    return sorted(found, key=lambda pair: -pair[1])


def between(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def how_much(plan: ExpertPlan, metrics: Sequence[Mapping[str, Any]]) -> str:
    shares = [plan.expert_macs()[i] / plan.cost.whole for i in plan.routing.unique().tolist()]
    target = "" if plan.target_ratio is None else f"target {plan.target_ratio:.0%}"
    if plan.latency:  # then the target is of time
        target = f"{plan.achieved_ratio:.1%} of the latency on {plan.latency.device}; {target}"
    visited = [f"{m['value']:.1%} at {m['steps']} steps"
               for m in metrics if (m["name"], m["method"]) == ("macs_ratio", "alter")]  # fmt: skip
    over = f"; over those that the sampler visits, {', '.join(visited)}" if visited else ""
    height, width = plan.cost.resolution
    return (
        f"{plan.macs_ratio():.1%} stay, averaged over all {plan.num_train_timesteps} timesteps "
        f"({target or 'no target'}){over}. A single expert runs "
        f"{min(shares):.0%} to {max(shares):.0%}. Counted: {plan.cost.convention} at {height} x {width} latents, share "
        f"of the {'whole network' if plan.cost.denominator == 'total' else 'prunable layers'}."
    )


def when(plan: ExpertPlan) -> str:
    share = [count / plan.num_train_timesteps for count in plan.routing.bincount().tolist() if count]
    served = f"{min(share):.0%}" if min(share) == max(share) else f"{min(share):.0%} to {max(share):.0%}"
    tenth = max(1, plan.num_train_timesteps // 10)
    last = plan.num_train_timesteps
    noise, image = plan.macs_ratio(range(last - tenth, last)), plan.macs_ratio(range(tenth))
    switches = int((plan.routing[1:] != plan.routing[:-1]).sum())
    return (
        f"Each of the {last} timesteps, from noise to image, is served by one of {len(share)} experts, which hold "
        f"{served} of the timesteps each; the expert changes {switches} times on the way. In the noisiest tenth "
        f"{noise:.0%} of the MACs run, in the tenth nearest to the image {image:.0%}."
    )


def price(metrics: Sequence[Mapping[str, Any]]) -> str:
    """In a few words: FID-AlexNet over the unpruned network's at as many steps, and at equal MACs."""
    ratios = [m for m in metrics if (m["name"], m["method"]) == ("fid_alexnet_ratio", "alter")]
    same_steps = [m for m in ratios if m["against"] == f"teacher@{m['steps']}"]
    lead = []
    for judged, alike in groupby(same_steps, grade):
        steps, times = zip(*((str(m["steps"]), figure(m["value"])) for m in alike), strict=True)
        lead.append(f"{judged} at {listed(steps)} steps ({listed(times)} times the unpruned network's FID-AlexNet)")
    lead += [f"{grade(m)} at equal MACs ({figure(m['value'])} times that of {steps} unpruned steps)"
             for m, steps in at_equal_macs(metrics)]  # fmt: skip
    return f"Pictures are {', '.join(lead)}." if lead else "Not evaluated yet."


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def grade(ratio: Mapping[str, Any]) -> str:
    """By the whole 95 % interval of a ratio of FIDs."""
    low, high = ratio["interval"]
    return "worse" if low > 1 else "better" if high < 1 else "as good, as far as can be told,"


def quality(metrics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One sentence a figure of quality."""
    found = {(m["name"], m["method"], m.get("steps"), m.get("against")): m for m in metrics}
    for name, better in QUALITY.items():
        mine = [m for (of, method, _, against), m in found.items() if (of, method, against) == (name, "alter", None)]
        compared = [beside(m, found) for m in mine if (name, "teacher", m["steps"], None) in found]
        if compared:
            meaning = f"{better} is better ({MEANS[name]}; N = {figure(mine[0].get('n'))})"
            title = COLUMNS[name][0]
            yield f"{title[0].upper()}{title[1:]}, {meaning}: {'; '.join(compared)}."


def beside(mine: Mapping[str, Any], found: Mapping[tuple, Mapping[str, Any]]) -> str:
    """A figure of ours beside the unpruned network's at as many steps."""
    name, steps = mine["name"], mine["steps"]
    teacher = found[name, "teacher", steps, None]
    ratio = found.get((f"{name}_ratio", "alter", steps, f"teacher@{steps}"))
    times = f", {interval(ratio)} times as much" if ratio else ""
    return f"at {steps} steps {figure(mine['value'])} pruned and {figure(teacher['value'])} unpruned{times}"


def usage(params: Params, plan: ExpertPlan) -> str:
    folder = provenance.relative(str(params.run_folder / "alter"))
    call = "[0]" if plan.backbone_class == "DiTTransformer2DModel" else '"red apple"'
    return USE.format(folder=folder, call=call, steps=params.sampling.steps, guidance=params.sampling.guidance_scale)
