"""Reports made by hand for the tests of what is printed."""

from __future__ import annotations

from bnfold.analysis import BatchNormReport, Finding, Foldability, Placement, Repair, Report, Severity, Size, Summary

FOLDS = BatchNormReport(
    "bn_1", "BatchNormalization", 8, "Conv → BN → Relu", Placement.BEFORE_ACTIVATION,
    Foldability("backward", ("conv_1",)), op="bn_1",
    statistics={
        "scale": {"min": 0.5, "median": 1.0, "max": 2.0}, "variance": {"min": None, "median": 1.0, "max": 3.0},
        "dead_channels": 1, "weight_spread_bits": {"before": 1.0, "after": 2.5}, "epsilon": 1e-5,
    },
)  # fmt: skip
STAYS = BatchNormReport(
    "bn_2", "BatchNormalization", None, "Relu → BN", Placement.AFTER_ACTIVATION,
    Foldability("stays", backward="relu (Relu) is nonlinear", forward="conv_2 (Conv) pads with zeros"),
)  # fmt: skip


def finding(code: str = "BN201", severity: str = "warning", layer: str = "conv_1", message: str = "") -> Finding:
    text = message or f"{layer or 'the model'} has something to say."
    return Finding(code, "redundant-bias", Severity(severity), text, layer, layer, repair=Repair.FIX, values={"n": 8})


def report(
    *findings: Finding, model: str = "models/a.onnx", batchnorms: tuple[BatchNormReport, ...] = (FOLDS, STAYS)
) -> Report:
    summary = Summary(
        size=Size(nodes=10, batchnorms=2, parameters=1000, bytes=4000),
        folded=Size(nodes=9, batchnorms=1, parameters=968, bytes=3872),
        placements={"before activation": 1, "after activation": 1} if batchnorms else {},
        foldable=1 if batchnorms else 0,
        parameters_in_batchnorm=64 if batchnorms else 0,
    )
    return Report(model, "onnx", batchnorms, findings, summary)
