"""Plans that the widgets are tested with."""


import torch

from alter_lib.plan import CostTable, ExpertPlan

NAMES = [f"down_blocks.{i // 2}.resnets.{i % 2}" for i in range(17)]
NAMES += [f"up_blocks.{i // 3}.attentions.{i % 3}" for i in range(17)]


def make_plan(num_experts: int = 10, timesteps: int = 1000, seed: int = 0) -> ExpertPlan:
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(num_experts, len(NAMES), generator=random) < 0.6
    routing = torch.randint(num_experts, (timesteps,), generator=random)
    costs = CostTable(tuple(range(1, 35)), 300, "linear+conv", (8, 8))
    return ExpertPlan(masks, routing, NAMES, costs, "UNet2DConditionModel", "hash", 0.65)


PLAN = make_plan()
# by hand: 3 layers of 10, 20 and 30 MACs and 40 fixed ones, 2 experts, 4 timesteps
SMALL = ExpertPlan(
    torch.tensor([[True, False, True], [True, True, False]]),
    torch.tensor([0, 0, 1, 0]),
    ("down_blocks.0.resnets.0", "mid_block.attentions.0", "up_blocks.1.resnets.0"),
    CostTable((10, 20, 30), 40, "linear+conv", (8, 8)),
    "UNet2DConditionModel",
    "hash",
)
