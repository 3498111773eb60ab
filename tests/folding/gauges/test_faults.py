"""A mistake in a gauge is seen by verification, its steps are found, and without them the rest is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from streams import stream

import bnfold
from bnfold.graph import Param
from bnfold.operators.base import NewWeights
from bnfold.operators.linear import LinearFacts
from bnfold.pipeline import fold_file

pytestmark = pytest.mark.slow


def mistaken(method: Any, holder: str) -> Any:
    """The facts of operators with weights, one of which makes every constant one part in a hundred too large."""

    def faulty(self: Any, node: Any, *arguments: Any) -> Any:
        answer = method(self, node, *arguments)
        if node.op.name != holder or not isinstance(answer, NewWeights):
            return answer
        wrong = {
            slot: part.scaled(np.full((1,) * len(part.shape), 1.01)) if isinstance(part, Param) else part
            for slot, part in answer.inputs.items()
        }
        return NewWeights(wrong, type=answer.type, channel_axis=answer.channel_axis)

    return faulty


def test_keep_going_leaves_out_what_a_faulty_operator_took_part_in(tmp_path, monkeypatch):
    model = stream({}, {}, {})
    onnx.save(model, tmp_path / "in.onnx")
    steps = bnfold.fold(model).plan.steps
    gauges = [step for step in steps if step.kind == "gauge"]
    assert len(gauges) >= 2
    for number, holder in enumerate(dict.fromkeys(name for step in gauges for name in step.into)):
        concerned = {step.subject for step in steps if holder in (*step.into, *step.repaid)}
        with monkeypatch.context() as patch:
            for method in ("absorb_output", "absorb_input"):
                patch.setattr(LinearFacts, method, mistaken(getattr(LinearFacts, method), holder))
            stopped = fold_file(tmp_path / "in.onnx", tmp_path / f"stopped_{number}.onnx")
            going = fold_file(tmp_path / "in.onnx", tmp_path / f"{number}.onnx", keep_going=True)
        assert stopped.path is None
        assert stopped.culprits
        assert {step.subject for step in stopped.culprits} & concerned
        assert going.verification is not None
        assert going.verification.equivalent
        assert going.dropped
