"""Schema and loading of params/*.yaml: one level of sections, every value checked before anything runs.

    params = load_params("params/tiny_sd.yaml", {"training.steps": 100})
    params.training.steps, params.run_folder

Where the paper prints a value it is the default here; where it is silent the files in params/ say why they choose.
"""

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .params_data import Source, data_faults
from .params_errors import ParamsError, faults
from .params_evaluation import Baseline, MetricName, Protocol, evaluation_faults
from .params_training import training_faults

ROOT = Path(__file__).resolve().parent.parent  # the repository: relative paths start here, never at the kernel's folder
DEFAULT = ROOT / "params" / "tiny_sd.yaml"


def resolve(path: str | Path) -> Path:
    """`path` itself when absolute, else below the repository root; without `..`."""
    return Path(os.path.normpath(ROOT / path))


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise ValueError("a bool is no number")
    return value


NotBool = BeforeValidator(_no_bool)  # last in Annotated, so that the bounds stay in the JSON schema
Count = Annotated[int, Field(ge=1), NotBool]
CountOrZero = Annotated[int, Field(ge=0), NotBool]
Seed = Annotated[int, Field(ge=0, lt=2**32), NotBool]
Number = Annotated[float, Field(allow_inf_nan=False), NotBool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NotBool]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), NotBool]
Share = Annotated[float, Field(ge=0, le=1), NotBool]
PositiveShare = Annotated[float, Field(gt=0, le=1), NotBool]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1), NotBool]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Device = Literal["auto", "cpu", "cuda", "mps", "meta"]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        description="a folder name of letters, digits, '.', '_' and '-'",
    ),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(Section):
    name: Name | None = None  # null: the stem of the params file
    out: Annotated[str, Field(min_length=1)] = "runs"
    seed: Seed = 0


class BackboneParams(Section):
    id: Annotated[str, Field(min_length=1)] = "assets/tiny_sd"  # folder below the repository root, or a hub id
    weights: Literal["pretrained", "random"] = "pretrained"  # random: from a config alone, no network
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"  # as loaded; training: at least float32
    device: Device = "auto"
    variant: str | None = None  # as in from_pretrained, e.g. fp16
    revision: str | None = None


class Cost(Section):
    convention: Literal["linear+conv+attention", "linear+conv"] = "linear+conv+attention"
    denominator: Literal["total", "prunable"] = "total"  # Table 1's ratios are of the total, B.2's S of the prunable
    resolution: tuple[Count, Count] | None = None  # latent [h, w]; null: the denoiser's sample_size
    unit: Literal["macs", "latency"] = "macs"  # of S(m) and the budget: latency is measured on the device at hand
    batch_size: Count = 1  # of the calls that latency is measured on; guidance doubles a pipeline's


class Data(Section):
    source: Source = "emoji"  # emoji, coco, cc3m: captions; fashion, imagenet: class labels; the others hold either
    path: Text | None = None  # a source of one's own: its folder, tar shards or name on the hub
    config: Text | None = None  # hub: configuration of the data set
    split: Text | None = None  # hub: e.g. train; coco: train2014 | val2014 | train2017 | val2017; imagenet: subfolder
    streaming: Flag = False  # hub: the cache reads it once through instead of storing it on this disk
    image_column: Text | None = None  # null: image
    caption_column: Text | None = None  # null: text, or what img2dataset writes
    label_column: Text | None = None  # null: label
    aesthetic_column: Text | None = None  # null: AESTHETIC_SCORE, as LAION-Aesthetics calls it
    keywords: Flag = True  # captions: the name and a random subset of the keywords
    caption_dropout: Share = 0.1  # share of empty captions, or of null class labels, for classifier-free guidance
    resolution: Count | None = None  # px, height and width; null: what the backbone samples at
    crop: Literal["center", "random"] = "center"  # of the picture whose shorter side was resized to the resolution
    flip: Flag = False  # mirror half of the pictures
    min_size: Count | None = None  # px: pictures whose shorter side is less are left out
    min_aesthetic: Number | None = None  # pictures with a lower aesthetic score are left out
    shuffle_buffer: Count | None = None  # null: an epoch is one permutation; N: shards permuted, then each N samples
    workers: Count = 4  # threads a process that read and decode pictures
    cache_folder: Text | None = None  # where python -m alter_lib.data.cache writes
    cache_dtype: Literal["float32", "float16", "bfloat16"] = "float16"  # of the cached latents and text states
    cache_latents: Flag = True  # encode all images before training; false: batch by batch, for sets that don't fit
    cache_text: Flag = True  # likewise for the captions
    limit: Count | None = None  # first images only

    @model_validator(mode="after")
    def _keys_go_with_the_source(self) -> Self:
        if bad := data_faults(self, {name: field.default for name, field in type(self).model_fields.items()}):
            raise ValueError("\n".join(bad))
        return self


class HypernetworkParams(Section):
    num_experts: Count = 10  # N_e, Appendix C
    input_dim: Count = 64  # D_input, Table 5
    inputs: Literal["per_expert", "shared"] = "per_expert"  # Z: an orthogonal set an expert, or a vector a layer
    expert_hidden_dim: Count = 256  # D_expert, Table 5
    router_hidden_dim: Count = 64  # D_router, Table 6
    timestep_embedding: Literal["embedded", "sinusoidal", "slow_cosines"] = "embedded"  # e_t, the router's input
    estimator: Literal["straight_through", "soft"] = "straight_through"  # B.3; B.2 and B.4 speak of soft masks
    noise: Literal["gumbel", "logistic"] = "gumbel"  # B.3 prints Gumbel; logistic is the exact binary Concrete
    mask_temperature: Positive = 0.4  # tau_g, B.3
    mask_offset: Number = 4.0  # b_g, B.3
    router_temperature: Positive = 0.4  # tau_r, B.3
    router_offset: Number = 0.0  # b_r, B.3
    router: Literal["learned", "intervals"] = "learned"  # intervals: N_e equal ones, Table 3's Manual
    ratio_masks: Literal["sampled", "evaluation"] = "sampled"  # the masks that L_ratio sees
    ratio_gradient: Literal["sigmoid", "identity"] = "sigmoid"  # its straight-through gradient in the logits


class Loss(Section):
    denoise: Weight = 1e-4  # lambda_denoise, Appendix C
    output_kd: Weight = 1.0  # lambda_outKD, Appendix C
    feature_kd: Weight = 1.0  # lambda_featKD, Appendix C
    ratio: Weight = 5.0  # lambda_ratio, Appendix C
    balance: Weight = 1.0  # lambda_balance, Appendix C
    reduction: Literal["mean", "sum"] = "mean"  # of the squared errors; printed as || . ||^2
    feature_points: Literal["all", "middle"] | Count = (
        "all"  # blocks of L_featKD: all, the middle one, or N groups' last
    )
    distill_variance: Flag = True  # DiT: L_outKD on epsilon and the learned variance, or on epsilon alone
    target_ratio: PositiveShare = 0.65  # p, Appendix C
    ratio_ramp: Share = 0.0  # share of T_end over which L_ratio's target falls from 1 to p; 0: p from the start


class Training(Section):
    steps: Count  # T_total, Algorithm 1: updates of the backbone
    hypernetwork_steps: CountOrZero  # T_end, Algorithm 1: updates of the hypernetwork
    order: Literal["joint", "two_stage"] = "joint"  # two_stage: Table 3's TwoStage, the backbone waits until T_end
    plan: Text | None = None  # a plan.json or a baseline's name to fine-tune the backbone under; no plan is learned
    batch_size: Count  # of all processes together
    learning_rate: Positive
    hypernetwork_learning_rate: Positive
    schedule: Literal["constant", "cosine"] = "constant"  # Appendix C: constant after a linear warm-up
    warmup_steps: CountOrZero = 250  # Appendix C
    ema_decay: ShareBelowOne = 0.0  # 0: off; the paper names none for SD2.1
    max_grad_norm: Positive | None = None
    weight_decay: Weight = 0.01  # AdamW's own default; the paper names none
    execution: Literal["sub_batch", "masked", "reference"] = "sub_batch"  # reference: the authors' procedure
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2  # the last and spares: a damaged one is passed over for the one before
    max_skipped_steps: CountOrZero = 10  # with a NaN or infinite loss or gradient; one more stops the run
    correct_ratio: Flag = False  # smallest exact correction of a plan that ends off target
    routing_intervals: Count | None = None  # at T_end the routing is snapped to at most so many intervals
    snapshots: tuple[Count, ...] = ()  # updates of the backbone after which its weights are kept, for learning curves
    num_processes: Count = 1
    gradient_accumulation_steps: Count = 1  # micro-batches of a process's share: same gradients, less memory
    gradient_checkpointing: Flag = False  # prunable layers are run again in the backward pass: less memory, more time
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"  # autocast; the student's weights stay float32
    teacher_dtype: Literal["bfloat16", "float16"] | None = None  # of the frozen teacher; null: the student's
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"  # 8-bit moments of theta (bitsandbytes); Phi is small
    lora_rank: CountOrZero = 0  # 0: all of theta is trained; else adapters of the attention projections (peft)
    compile: Literal["none", "teacher", "both"] = "none"  # torch.compile; of the student each prunable layer by itself
    trackers: Literal["auto"] | tuple[Name, ...] = "auto"  # accelerate's names; auto: tensorboard where installed

    @property
    def iterations(self) -> int:
        """Of the training loop: each updates one network or both."""
        return self.steps + (self.hypernetwork_steps if self.order == "two_stage" else 0)

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        if bad := training_faults(self):
            raise ValueError("\n".join(bad))
        return self


class Sampling(Section):
    scheduler: Annotated[str, Field(pattern=r"^\w+Scheduler$", description="a diffusers scheduler class")] | None = None
    procedure: Literal["pipeline", "learned_variance"] = "pipeline"  # the latter: DiT's own ancestral sampling
    steps: Count = 20
    guidance_scale: Weight = 7.5  # paper §4.1; <= 1 turns guidance off
    batch_size: Count = 64
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_scheduler(self) -> Self:
        if self.procedure == "learned_variance" and self.scheduler:
            raise ValueError(f"scheduler: {self.scheduler} has no part in the learned_variance procedure; use null")
        return self


class Evaluation(Section):
    protocol: Protocol = "embedded"
    prompts: Text | None = None  # COCO captions json, CC3M tsv, text, csv, jsonl, parquet, or a saved prompt list
    prompt_column: Text | None = None  # of a csv, jsonl or parquet file
    images_per_prompt: Count = 1
    reference: Text | None = None  # real images: a folder, or an npz of the ADM evaluator
    image_format: Literal["npz", "png"] = "npz"  # how drawn images are kept
    # px that images are squashed to before every metric, no fewer than AlexNet can see; null: as they are
    resolution: Annotated[int, Field(ge=32), NotBool] | None = None
    resize: Literal["bicubic", "bilinear", "lanczos", "box"] = "bicubic"  # Pillow's, which are antialiased
    metrics: tuple[MetricName, ...] = ()  # beside MACs and the deviation from the teacher; embedded: a fixed set
    weights: Annotated[str, Field(min_length=1)] = "weights"  # folder of the extractors' weights
    download: Flag = False  # fetch weights that are not there
    clip_model: Text = "openai/clip-vit-base-patch32"  # of the CLIP score; APTP's scripts take it, the paper is silent
    preference_python: Text | None = None  # interpreter of an environment with image-reward
    baselines: tuple[Baseline, ...] = ()  # released pipelines below the folder of weights
    latency_batch_sizes: tuple[Count, ...] = ()  # time whole images at these batch sizes
    num_images: Annotated[int, Field(ge=2), NotBool] = 1000  # N of every FID figure: never compare across N
    steps: tuple[Count, ...] = Field((20,), min_length=1)
    teacher_steps: tuple[Count, ...] = (50, 25, 20, 13, 10)
    teacher_results: str | None = None  # a committed JSON of the teacher's figures, which never change
    teacher_pictures: Flag = True  # the teacher's part of the grid, and the deviation from its pictures; false: neither
    curve_images: CountOrZero = 0  # N of a learning curve over training.snapshots; 0: none is drawn
    controls: tuple[Name, ...] = ()  # other runs in run.out to measure beside this one, e.g. an unpruned control
    target_fid_ratio: Positive | None = None  # FID-AlexNet, ALTER / teacher at equal steps: what the report judges by
    bootstrap: Count = 1000  # resamples of a 95 % interval
    seed: Seed = 0

    @model_validator(mode="after")
    def _keys_go_with_the_protocol(self) -> Self:
        if bad := evaluation_faults(self, {name: field.default for name, field in type(self).model_fields.items()}):
            raise ValueError("\n".join(bad))
        return self


class Params(Section):
    """All parameters of a run, one attribute a section; frozen. Build it by `load_params` or `Params.notebook`."""

    run: Run = Run()
    backbone: BackboneParams = BackboneParams()
    cost: Cost = Cost()
    data: Data = Data()
    hypernetwork: HypernetworkParams = HypernetworkParams()
    loss: Loss = Loss()
    training: Training
    sampling: Sampling = Sampling()
    evaluation: Evaluation = Evaluation()

    @classmethod
    def notebook(cls, overrides: Mapping[str, Any] | None = None, **sections: Mapping[str, Any] | None) -> Self:
        """Params of a notebook's parameters cell: nothing given means params/tiny_sd.yaml.

        Raises ParamsError as `load_params` does, and when sections are given without run.name: a notebook does not
        know the file that they came from, so it can't name its run folder.
        """
        given = {name: section for name, section in sections.items() if section is not None}
        params = load_params(given or DEFAULT, overrides)
        if params.run.name is None:
            raise ParamsError(["parameters: run.name: missing; it names the folder of the run"])
        return params

    @property
    def run_folder(self) -> Path:
        """Absolute path of runs/<name>."""
        if self.run.name is None:
            raise ParamsError(["parameters: run.name: missing; it names the folder of the run"])
        return resolve(self.run.out) / self.run.name

    def dump(self) -> dict[str, dict[str, Any]]:
        """Plain dict of dicts, lists and scalars: `load_params(params.dump()) == params`."""
        return self.model_dump(mode="json")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-5 as a number (YAML 1.1 reads text) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_params(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Params:
    """Read, override and check params.

    Args:
        source: path of a YAML file (relative: below the repository root), or a mapping of sections.
        overrides: dotted keys and values, `{"training.steps": 100}`.

    Raises:
        ParamsError: every fault, one line each.
    """
    is_file = isinstance(source, str | Path)
    label = _label(resolve(source)) if is_file else "parameters"
    data = _read(resolve(source), label) if is_file else dict(source)
    data = {_text(section): _named(keys) for section, keys in data.items()}
    bad = _apply(data, overrides or {})
    try:
        params = Params.model_validate(data)
    except ValidationError as error:
        found = faults(error.errors(), data, Params.model_json_schema())
        bad += [f"{'override' if key in (overrides or {}) else label}: {key}: {text}" for key, text in found.items()]
    if bad:
        raise ParamsError([" ".join(line.splitlines()) for line in bad])
    if is_file and params.run.name is None:
        return load_params(data, {"run.name": Path(source).stem})
    return params


def _named(keys: Any) -> Any:
    """The keys of a section, which YAML may read as numbers; a section left empty has none."""
    return {_text(key): value for key, value in (keys or {}).items()} if isinstance(keys, dict | None) else keys


def _text(key: Any) -> str:
    """A key that pydantic takes: half a surrogate pair, which YAML and JSON can spell, is no Unicode."""
    return str(key).encode(errors="backslashreplace").decode()


def _label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _read(path: Path, label: str) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader: builds plain values only
    except Exception as error:  # yaml's constructors raise whatever Python makes of a value
        raise ParamsError([f"{label}: {_reason(error)}"]) from None
    if not isinstance(data, dict):
        raise ParamsError([f"{label}: holds no sections; known: {', '.join(Params.model_fields)}"])
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, OSError):
        return error.strerror
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"not YAML: {' '.join(str(error).split())}"


def _apply(data: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Put dotted `overrides` into copies of the sections of `data`; returns the faults of their form."""
    bad = []
    for dotted, value in overrides.items():
        section, _, key = _text(dotted).partition(".")
        if not key:
            bad.append(f"override: {dotted}: is not of the form section.key")
        elif isinstance(data.get(section, {}), dict):
            data[section] = {**data.get(section, {}), key: value}
    return bad


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`["training.steps=100"]` -> `{"training.steps": 100}`; values are YAML. Raises ParamsError."""
    result, bad = {}, []
    for item in items:
        dotted, sign, text = item.partition("=")
        try:
            result[dotted.strip()] = yaml.load(text, _Loader)
        except Exception as error:  # as in a file
            bad.append(f"override: {dotted}: {_reason(error)}")
        if not sign:
            bad.append(f"override: {item}: is not of the form section.key=value")
    if bad:
        raise ParamsError(bad)
    return result


def add_params_arguments(parser: argparse.ArgumentParser) -> None:
    """`--params FILE` and `--set section.key=value ...`, the same in every command of the project."""
    parser.add_argument("--params", default=str(DEFAULT), metavar="FILE", help="default: params/tiny_sd.yaml")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values")


def params_from_arguments(arguments: argparse.Namespace) -> Params:
    """Params of a parsed command line; a path that exists below the current folder is taken from there."""
    here = Path(arguments.params).absolute()
    return load_params(here if here.is_file() else arguments.params, parse_overrides(arguments.set))
