"""What one forward of a denoiser costs, layer by layer: MACs, or nanoseconds on a device."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from ..backbones import Backbone

Denominator = Literal["total", "prunable"]


@dataclass(frozen=True)
class CostTable:
    """The costs of one forward: what a ratio is counted in.

    layers: cost of each prunable layer [N_L]; fixed: of everything else. MACs are counted at batch 1.
    convention: which products count ("linear+conv+attention" or "linear+conv"), or how time was taken;
    resolution: latent (h, w). unit: "macs", or "latency" in nanoseconds on `device`.
    denominator: a ratio is taken of the "total" network (the paper's reported ratios) or of the "prunable"
    layers alone (paper B.2).
    """

    layers: tuple[int, ...]
    fixed: int
    convention: str
    resolution: tuple[int, int]
    denominator: Denominator = "total"
    unit: Literal["macs", "latency"] = "macs"
    device: str = ""

    @classmethod
    def of(cls, backbone: "Backbone", denominator: Denominator = "total") -> Self:
        """The MACs of a loaded backbone, at its resolution and by its convention."""
        layers = tuple(layer.macs for layer in backbone.layers)
        return cls(layers, backbone.fixed_macs, backbone.macs_convention, tuple(backbone.resolution), denominator)

    @classmethod
    def budget_of(cls, backbone: "Backbone", denominator: Denominator = "total") -> Self:
        """What its budget is counted in: latency where the backbone carries a table of it, else MACs."""
        if backbone.latency is None:
            return cls.of(backbone, denominator)
        return replace(backbone.latency, denominator=denominator)

    @property
    def total(self) -> int:
        """Cost of the unpruned network."""
        return self.fixed + sum(self.layers)

    @property
    def always(self) -> int:
        """What counts whatever the mask: the fixed part, or nothing when only prunable layers count."""
        return self.fixed if self.denominator == "total" else 0

    @property
    def whole(self) -> int:
        """The denominator of a ratio."""
        return self.always + sum(self.layers)
