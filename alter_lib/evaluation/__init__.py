"""Evaluation: images at the same prompts and seeds, quality, deviation from the teacher, MACs and time.

    result = evaluate(load_params("params/tiny_sd.yaml"))     # or: python -m alter_lib.evaluation --params F
    result.frame(); result.grid.images; beside_paper("1", result)

The embedded protocol needs nothing but the repository; the networks of the paper's own metrics (Inception FID, CLIP,
CMMD) can't be shipped, and none of its figures is called by those names. Protocols at scale (COCO, CC3M, ImageNet,
prompts of one's own) are judged by them: docs/evaluation.md.
"""

from .evaluator import evaluate
from .our_tables import beside_paper, comparable_tables
from .paper_tables import paper_table
from .result import EvaluationResult, Grid, Metric

__all__ = ["EvaluationResult", "Grid", "Metric", "beside_paper", "comparable_tables", "evaluate", "paper_table"]
