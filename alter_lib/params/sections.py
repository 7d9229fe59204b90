"""The sections whose keys hardly depend on each other: run, backbone, cost, hypernetwork, loss, sampling."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .values import Count, Device, Flag, Name, Number, Positive, PositiveShare, Section, Seed, Share, Weight


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
