"""What is wrong with a plan although it is valid: told at the end of a training and of a run, and kept with the run."""

from collections.abc import Sequence

from .expert_plan import ExpertPlan

BUDGET_TOLERANCE = 0.01  # of the target ratio
LEAST_SHARE = 0.05  # of the timesteps, for an expert to count as used
LEAST_LAYERS = 2  # that two masks differ in, for their experts to count as two


def plan_warnings(plan: ExpertPlan) -> list[str]:
    """One line each: the budget is missed; the router collapsed to one expert, or to copies of one."""
    return [*_off_target(plan), *_collapse(plan)]


def _off_target(plan: ExpertPlan) -> list[str]:
    target, achieved = plan.target_ratio, plan.achieved_ratio
    if target is None or abs(achieved - target) <= BUDGET_TOLERANCE * target:
        return []
    return [f"off target: the plan leaves {achieved:.4f} active, not {target:g} within {BUDGET_TOLERANCE:.0%}; "
            "training.correct_ratio: true makes the smallest correction"]  # fmt: skip


def _collapse(plan: ExpertPlan) -> list[str]:
    if plan.num_experts == 1:  # Static: nothing is routed
        return []
    shares = plan.routing.bincount(minlength=plan.num_experts) / plan.num_train_timesteps
    used = [expert for expert, share in enumerate(shares.tolist()) if share >= LEAST_SHARE]
    if len(used) <= 1:
        most = int(shares.argmax())
        return [f"router collapse: expert {most} of {plan.num_experts} serves {shares[most]:.1%} of the timesteps; "
                "a higher loss.balance or hypernetwork.router_temperature spreads them"]  # fmt: skip
    if len(largest_distinct(plan.masks.tolist(), used)) == 1:
        return [f"router collapse: the {len(used)} experts in use skip the same layers, or all but one of them"]
    return []


def largest_distinct(masks: Sequence[Sequence[bool]], experts: Sequence[int]) -> tuple[int, ...]:
    """The largest set of `experts` whose `masks` differ pairwise in LEAST_LAYERS layers or more."""
    best: tuple[int, ...] = ()
    for k, i in enumerate(experts):
        if len(experts) - k <= len(best):
            break
        apart = {j: sum(a != b for a, b in zip(masks[i], masks[j], strict=True)) for j in experts[k + 1 :]}
        far = [j for j, layers in apart.items() if layers >= LEAST_LAYERS]
        best = max(best, (i, *largest_distinct(masks, far)), key=len)
    return best
