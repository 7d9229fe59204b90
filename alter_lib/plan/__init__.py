"""The expert plan: masks and routing, what they cost, and the file that holds them. It knows nothing of the
hypernetwork that it may come from."""

from .costs import CostTable
from .expert_plan import ExpertPlan
from .file import PlanError

__all__ = ["CostTable", "ExpertPlan", "PlanError"]
