"""What equalisation did, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRanges:
    """How far the weight ranges of a layer's output channels are apart, in bits, before and after.

    ``key`` is what a plan of folding calls the layer; ``largest_before`` and ``largest_after`` are the largest
    absolute weight of all.
    """

    key: str
    layer: str
    type: str
    scope: str
    before: float
    after: float
    largest_before: float
    largest_after: float

    def to_dict(self) -> dict[str, object]:
        return {
            "key": self.key,
            "layer": self.layer,
            "type": self.type,
            "scope": self.scope,
            "spread_bits": {"before": round(self.before, 2), "after": round(self.after, 2)},
            "largest_weight": {"before": self.largest_before, "after": self.largest_after},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledTensor:
    """A tensor whose channels were scaled by ``2**low`` to ``2**high``; ``renamed`` is what it is called now."""

    tensor: str
    renamed: str
    channels: int
    low: float
    high: float

    def to_dict(self) -> dict[str, object]:
        return {
            "tensor": self.tensor,
            "renamed": self.renamed,
            "channels": self.channels,
            "log2_scale": {"smallest": round(self.low, 3), "largest": round(self.high, 3)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscaledTensor:
    """The output of a layer whose channels can have no scale, and why."""

    tensor: str
    layer: str
    channels: int
    reason: str

    def sentence(self) -> str:
        """``conv_3: its 32 output channels keep their scale, because relu6_3 (Clip) is nonlinear``."""
        return f"{self.layer}: {self.channels} output channels keep their scale, because {self.reason}"

    def to_dict(self) -> dict[str, object]:
        return {"tensor": self.tensor, "layer": self.layer, "channels": self.channels, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class EqualizationPlan:
    """Everything one run of equalisation did and did not do."""

    layers: tuple[LayerRanges, ...] = ()
    scaled: tuple[ScaledTensor, ...] = ()
    unscaled: tuple[UnscaledTensor, ...] = ()
    notes: tuple[str, ...] = ()
    exact: bool = False
    #: New names of the tensors whose values changed.
    changed: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"EqualizationPlan({len(self.scaled)} tensors scaled, {len(self.unscaled)} not)"

    def to_dict(self) -> dict[str, object]:
        return {
            "scales": "exact" if self.exact else "powers of two",
            "layers": [layer.to_dict() for layer in self.layers],
            "scaled": [tensor.to_dict() for tensor in self.scaled],
            "unscaled": [tensor.to_dict() for tensor in self.unscaled],
            "notes": list(self.notes),
        }
