"""Evaluation: images at the same prompts and seeds, FID-AlexNet, proxy text scores, deviation from the teacher, MACs.

    result = evaluate(load_params("params/tiny_sd.yaml"))     # or: python -m alter_lib.evaluation --params F
    result.frame(); result.grid.images; beside_paper("1", result)

The paper's own metrics (Inception FID, CLIP, CMMD) need networks that can't be shipped: no figure of ours is called by
those names.
"""

from .evaluator import evaluate
from .paper_tables import beside_paper, comparable_tables, paper_table
from .result import EvaluationResult, Grid, Metric

__all__ = ["EvaluationResult", "Grid", "Metric", "beside_paper", "comparable_tables", "evaluate", "paper_table"]
