"""What an embedded figure depends on, written beside it; figures that are read from a file get the same words."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..assets import listed
from ..backbones import Backbone
from ..params import Params
from .features import CLASSIFIER, EXTRACTOR, PROXY, SPATIAL
from .generation import sampler_name
from .lpips import NAME as LPIPS
from .lpips import weights as lpips_weights
from .protocol import Protocol
from .result import Metric

# extractor: files below assets/ that its weights are in, and what it does to an image before looking at it
OF_EXTRACTOR = {
    EXTRACTOR: ("alexnet/", "bilinear, antialiased, to 112 px"),
    SPATIAL: ("alexnet/", "bilinear, antialiased, to 112 px"),
    CLASSIFIER: ("fashion_classifier/", "grey; bilinear, antialiased, to 32 px"),
    PROXY: ("dual_encoder/", "bilinear, antialiased, to the dual encoder's size"),
}


def asset_hash(prefix: str) -> str:
    """16 hex digits over the listed hashes of the files below assets/`prefix`."""
    lines = [f"{digest}  {name}" for name, digest in sorted(listed().items()) if name.startswith(prefix)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def of_extractor(name: str | None) -> dict[str, Any]:
    """Hash of the weights and resizing of an embedded extractor."""
    if name == LPIPS:
        return {"weights": lpips_weights(), "resize": "none"}
    if name is None:
        return {"resize": "none"}
    assets, resize = OF_EXTRACTOR[name]
    return {"weights": asset_hash(assets), "resize": resize}


def with_context(metrics: Sequence[Metric], params: Params, backbone: Backbone, protocol: Protocol) -> list[Metric]:
    """Figures of images with prompts, resolution, resizing, hash of the extractor, sampler and guidance."""
    sampling = params.sampling
    drawn = {"sampler": sampler_name(backbone.pipeline, sampling), "guidance_scale": sampling.guidance_scale}
    common = {"protocol": "embedded", "prompts": protocol.digest(), "resolution": protocol.real.shape[1]}
    found = []
    for metric in metrics:
        if metric.n is None or metric.device:  # MACs and times bring their own
            found.append(metric)
        else:
            fields = common | of_extractor(metric.extractor) | (drawn if metric.steps else {})
            found.append(replace(metric, **fields))
    return found
