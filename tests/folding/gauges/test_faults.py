"""A mistake in a gauge is seen by verification, its steps are found, and without them the rest is written."""

from __future__ import annotations

import onnx
import pytest
from mistaken_facts import mistaken_about
from streams import stream

import bnfold
from bnfold.pipeline import fold_file

pytestmark = pytest.mark.slow


def test_keep_going_leaves_out_what_a_faulty_operator_took_part_in(tmp_path):
    model = stream({}, {}, {})
    onnx.save(model, tmp_path / "in.onnx")
    steps = bnfold.fold(model).plan.steps
    gauges = [step for step in steps if step.kind == "gauge"]
    assert len(gauges) >= 2
    for number, holder in enumerate(dict.fromkeys(name for step in gauges for name in step.into)):
        concerned = {step.subject for step in steps if holder in (*step.into, *step.repaid)}
        with mistaken_about(holder):
            stopped = fold_file(tmp_path / "in.onnx", tmp_path / f"stopped_{number}.onnx")
            going = fold_file(tmp_path / "in.onnx", tmp_path / f"{number}.onnx", keep_going=True)
        assert stopped.path is None
        assert stopped.culprits
        assert {step.subject for step in stopped.culprits} & concerned
        assert going.verification is not None
        assert going.verification.equivalent
        assert going.dropped
