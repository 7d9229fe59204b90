"""The ablation study: its runs, and their figures over seeds as tables. Every job of the workflow loads this package,
so it needs neither torch nor pandas by itself."""

from .study import STUDY, Run, Study

__all__ = ["STUDY", "Run", "Study"]
