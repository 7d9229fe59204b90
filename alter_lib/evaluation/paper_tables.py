"""The paper's own tables as data, to print beside our figures and never in place of them (arXiv 2505.21817).

Numbers are copied from the paper. FID there is Inception FID on CC3M or COCO, MACs are of SD2.1 at 768 px: other data,
other extractors, other networks than ours. Comparable are orders and ratios, not values. Table 1's MACs (1384.2 G a
step) and Table 2's (760.8 G a step) follow two conventions; Table 8's row of SDv2.1 at 20 steps looks column-swapped in
print and is kept as printed.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

CC3M_COCO = tuple(f"{metric} ({data})" for data in ("CC3M", "COCO") for metric in ("FID", "CLIP", "CMMD"))


@dataclass(frozen=True)
class Table:
    """One printed table. rows: (method, steps or None, values in the order of `columns`)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


PAPER = {
    "1": Table("SD2.1, CC3M and MS-COCO 2014", ("MACs G/step", "latency s", *CC3M_COCO), (
        ("SDv2.1", 25, 1384.2, 4.0, 17.08, 30.96, 0.361, 14.29, 32.17, 0.537),
        ("SDv2.1", 20, 1384.2, 3.2, 17.37, 30.89, 0.374, 14.46, 32.08, 0.532),
        ("BK-SDM-v2 Base", 25, 876.5, 2.5, 17.53, 29.77, 0.486, 19.06, 30.67, 0.654),
        ("BK-SDM-v2 Small", 25, 863.2, 2.5, 18.78, 29.89, 0.453, 20.58, 30.75, 0.645),
        ("APTP 0.85", 25, 1182.8, 3.4, 36.77, 30.84, 0.675, 22.60, 31.32, 0.569),
        ("APTP 0.66", 25, 916.3, 2.6, 60.04, 28.64, 1.094, 39.12, 29.98, 0.867),
        ("ALTER 0.65", 25, 899.7, 2.6, 16.74, 30.94, 0.393, 13.70, 32.17, 0.536),
        ("ALTER 0.65", 20, 899.7, 2.1, 17.14, 30.92, 0.392, 13.89, 32.18, 0.533),
        ("ALTER 0.60", 20, 830.5, 1.9, 17.87, 30.88, 0.479, 14.24, 32.17, 0.596),
        ("ALTER 0.55", 20, 761.3, 1.8, 18.27, 30.87, 0.563, 14.59, 32.16, 0.679),
        ("ALTER 0.50", 20, 692.1, 1.6, 18.99, 30.74, 0.612, 14.70, 32.05, 0.727),
    )),
    "2": Table("SD2.1, MS-COCO 2017, 5 k images", ("MACs T/image", "speedup", "CLIP", "FID"), (
        ("SDv2.1", 50, 38.04, 1.00, 31.55, 27.29),
        ("SDv2.1", 20, 15.21, 2.49, 31.53, 27.83),
        ("SDv2.1", 15, 11.41, 3.23, 30.99, 27.46),
        ("DiP-GO 0.7", 50, 11.42, 3.02, 31.50, 25.98),
        ("DiP-GO 0.8", 50, 7.61, 3.81, 30.92, 27.69),
        ("ALTER 0.65", 20, 9.89, 3.64, 31.62, 25.25),
        ("ALTER 0.65", 15, 7.42, 4.37, 31.19, 26.58),
    )),
    "3": Table("Ablation of routing and training, 20 steps", CC3M_COCO, (
        ("Static", 20, 19.03, 30.75, 0.397, 15.35, 32.01, 0.544),
        ("Manual", 20, 17.91, 30.82, 0.427, 14.13, 32.08, 0.571),
        ("TwoStage", 20, 17.65, 30.88, 0.401, 14.45, 32.02, 0.539),
        ("ALTER 0.65", 20, 17.14, 30.92, 0.392, 13.89, 32.18, 0.533),
    )),
    "4": Table("DiT-XL/2, ImageNet 256 x 256, 250 steps", ("speedup", "IS", "FID", "sFID", "precision", "recall"), (
        ("DiT-XL/2", 250, 1.00, 277.0, 2.27, 4.60, 0.83, 0.57),
        ("DyDiT (lambda 0.5)", 250, 1.72, 248.03, 2.07, 4.56, 0.80, 0.61),
        ("TinyFusion (14 layers)", 250, 1.96, 234.5, 2.86, 4.75, 0.82, 0.55),
        ("ALTER (14 of 28 on average)", 250, 1.92, 254.29, 2.36, 4.63, 0.82, 0.58),
    )),
    "7": Table("Preference, 25 steps", ("ImageReward", "HPSv2"), (
        ("SDv2.1", 25, 0.1139, 24.47),
        ("BK-SDM-v2 Base", 25, -0.0365, 23.97),
        ("APTP 0.66 (COCO)", 25, -0.8706, 19.08),
        ("APTP 0.66 (CC3M)", 25, -1.2226, 18.19),
        ("ALTER 0.65", 25, 0.1494, 24.54),
        ("ALTER 0.60", 25, 0.1487, 24.36),
    )),
    "8": Table("Deviation from SDv2.1 at 25 steps", ("SSIM (CC3M)", "PSNR (CC3M)", "SSIM (COCO)", "PSNR (COCO)"), (
        ("SDv2.1", 20, 0.3529, 13.71, 0.1582, 10.24),
        ("BK-SDM-v2 Base", 25, 0.1208, 9.42, 0.1551, 9.47),
        ("APTP 0.66", 25, 0.0782, 8.99, 0.0730, 8.83),
        ("ALTER 0.65", 25, 0.1233, 9.90, 0.3261, 12.81),
        ("ALTER 0.65", 20, 0.1247, 9.95, 0.2484, 11.61),
        ("ALTER 0.60", 20, 0.1224, 9.94, 0.1898, 10.73),
    )),
    "9": Table("With ToMeSD, MS-COCO 2017, 20 steps", ("merged %", "speedup", "CLIP", "FID"), (
        ("ALTER 0.65", 20, 0, 3.64, 31.62, 25.25),
        ("ALTER 0.65", 20, 40, 4.93, 31.48, 25.93),
        ("ALTER 0.65", 20, 50, 5.75, 31.34, 26.89),
        ("ALTER 0.65", 20, 60, 6.54, 31.24, 27.96),
    )),
    "11": Table("Loss terms, Static variant", CC3M_COCO, (
        ("denoise", 20, 23.76, 29.93, 0.531, 21.57, 30.91, 0.709),
        ("+ outKD", 20, 20.15, 30.54, 0.424, 15.98, 31.79, 0.549),
        ("+ featKD", 20, 19.03, 30.75, 0.397, 15.35, 32.01, 0.544),
    )),
    "12": Table("Fine-tuning after T_end, MS-COCO 2017, 5 k images", ("CLIP", "FID"), (
        ("ALTER 0.65 at T_end", 20, 31.54, 25.98),
        ("ALTER 0.65 at T_total", 20, 31.62, 25.25),
        ("ALTER 0.65 at T_end", 15, 31.05, 27.16),
        ("ALTER 0.65 at T_total", 15, 31.19, 26.58),
    )),
}  # fmt: skip


def paper_table(number: str) -> pd.DataFrame:
    """The printed rows, indexed by method and steps. Raises KeyError for a table that is not kept here."""
    table = PAPER[number]
    frame = pd.DataFrame(table.rows, columns=["method", "steps", *table.columns]).set_index(["method", "steps"])
    frame.attrs["title"] = f"Paper, Table {number}: {table.title}"
    return frame
