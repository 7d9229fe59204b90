"""Tables as `alter_lib.collect` and the study's other commands write them, by hand."""

import pandas as pd

FIDS = {"alter": [5.0, 6.0, 7.0], "static": [5.5, 6.2, 7.9], "manual": [9.0]}  # by seed


def row(variant: str, seed: int, name: str, value: float, method: str = "alter", steps: int = 20, **more) -> dict:
    fixed = {"run": f"tiny_sd-{variant}-s{seed}", "backbone": "tiny_sd", "variant": variant, "training_seed": seed,
             "low": value - 0.5, "high": value + 0.5, "n": 1000, "num_experts": 10, "experts_used": 9, "switches": 30,
             "achieved_ratio": 0.65, "training_seconds": 180.0, "evaluation_seconds": 60.0}  # fmt: skip
    return {**fixed, "name": name, "value": value, "method": method, "steps": steps, **more}


def table() -> pd.DataFrame:
    rows = []
    for variant, values in FIDS.items():
        for seed, value in enumerate(values):
            pruned = [row(variant, seed, "fid_alexnet", value), row(variant, seed, "total_macs", 1.3e9)]
            of_teacher = [("fid_alexnet", 3.2, 20), ("fid_alexnet", 3.3, 13)]
            of_teacher += [("total_macs", 2e9, 20), ("total_macs", 1.3e9, 13)]
            rows += pruned + [row(variant, seed, name, each, "teacher", steps) for name, each, steps in of_teacher]
    return pd.DataFrame(rows)


def errors_of(run: str, before: list[float], after: list[float]) -> pd.DataFrame:
    backbone, variant, seed = run.split("-")
    facts = {"run": run, "backbone": backbone, "variant": variant, "training_seed": int(seed[1:])}
    times = {"first_timestep": [0, 500], "last_timestep": [499, 999], "macs_ratio": 0.65}
    return pd.DataFrame({**times, "before": before, "after": after}).assign(**facts)


def layers_of(run: str, kept: list[float]) -> pd.DataFrame:
    backbone, variant, _ = run.split("-")
    names = ["up_blocks.2.resnets.1", "up_blocks.2.attentions.1", "mid_block.attentions.0"]
    facts = {"run": run, "backbone": backbone, "variant": variant}
    return pd.DataFrame({"layer": names, "macs": [0.1, 0.3, 0.2], "kept": kept}).assign(**facts)
