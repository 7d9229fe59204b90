"""Interactive views for JupyterLab: the mask inspector, two plans side by side, and a dashboard of a training.

They need ipywidgets and anywidget. Pictures of a plan are HTML and SVG that take their colours from the page; every
widget also displays a static picture, for readers without a kernel.
"""

from .comparison import PlanComparison
from .dashboard import TrainingDashboard
from .inspector import MaskInspector

__all__ = ["MaskInspector", "PlanComparison", "TrainingDashboard"]
