"""What was measured, as values."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.display import Displayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Output:
    """One output beside that of the original in float: ``10 log10(sum ref^2 / sum (ref - int8)^2)``.

    ``snr_db`` is infinite where they are equal. ``agreement`` is the part of the samples with the same largest
    class, None where the output does not look like classes.
    """

    name: str
    snr_db: float
    agreement: float | None

    def to_dict(self) -> dict[str, object]:
        return {"name": self.name, "snr_db": _finite(self.snr_db, 2), "top1_agreement": self.agreement}


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Row:
    """One model in one form: ``weights`` is "float", "per tensor" or "per channel"; what failed is in ``error``.

    ``size`` is in bytes, ``latency_ms`` the median time of one batch with onnxruntime's optimisations on.
    """

    model: str
    weights: str
    outputs: tuple[Int8Output, ...] = ()
    size: int | None = None
    latency_ms: float | None = None
    error: str = ""

    def to_dict(self) -> dict[str, object]:
        return {
            "model": self.model,
            "weights": self.weights,
            "outputs": [output.to_dict() for output in self.outputs],
            "size": self.size,
            "latency_ms": self.latency_ms,
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoss:
    """A layer whose weights alone are rounded to int8, with one scale for the tensor, all else in float.

    ``snr_db`` is that of the worst output, ``spread_bits`` how far its channels' ranges are apart; both by model.
    """

    layer: str
    snr_db: dict[str, float]
    spread_bits: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        return {
            "layer": self.layer,
            "snr_db": {model: _finite(value, 2) for model, value in self.snr_db.items()},
            "spread_bits": {model: round(value, 2) for model, value in self.spread_bits.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Report(Displayed):
    """Models beside each other in int8. ``calibration`` and ``held_out`` are numbers of samples, ``batch`` of a run."""

    rows: tuple[Int8Row, ...] = ()
    losses: tuple[LayerLoss, ...] = ()
    calibration: int = 0
    held_out: int = 0
    batch: int = 0
    notes: tuple[str, ...] = ()

    def row(self, model: str, weights: str) -> Int8Row:
        """Raises KeyError."""
        for row in self.rows:
            if (row.model, row.weights) == (model, weights):
                return row
        raise KeyError((model, weights))

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "losses": [loss.to_dict() for loss in self.losses],
            "calibration_samples": self.calibration,
            "held_out_samples": self.held_out,
            "batch": self.batch,
            "notes": list(self.notes),
        }


def _finite(value: float, digits: int) -> float | None:
    """JSON has no infinity: None stands for it."""
    return round(value, digits) if abs(value) != float("inf") and value == value else None
