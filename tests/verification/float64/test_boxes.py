"""Non-maximum suppression against onnxruntime, on boxes whose areas are exact in float32."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from verification_models import model

from bnfold.verification.float64 import Evaluator

INPUTS = ["boxes", "scores", "most", "overlap", "least"]


def against_runtime(boxes, scores, *limits, **attributes):
    """The rows that both select, given the limits that are not left out."""
    feed = {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}
    kinds = (np.int64, np.float32, np.float32)
    feed |= {
        name: np.array([limit], kind)
        for name, kind, limit in zip(INPUTS[2:], kinds, limits, strict=False)
        if limit is not None
    }
    names = [name if name in feed else "" for name in INPUTS[: 2 + len(limits)]]
    node = helper.make_node("NonMaxSuppression", names, ["y"], **attributes)
    shapes = {name: array.shape for name, array in feed.items()}
    proto = model([node], shapes, ["y"], types={"most": TensorProto.INT64, "y": TensorProto.INT64})
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feed)
    found = Evaluator(proto).run(feed)["y"]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    return found


def some_boxes(seed, count=60):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 32, (2, count, 4)) / 4, rng.integers(0, 12, (2, 3, count)) / 8


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize(
    "limits", [(5, 0.5, 0.25), (100, 0.25), (100, 0.0), (100, 1.0), (100, None, 0.5), (3,)], ids=str
)
def test_the_boxes_that_onnxruntime_selects(limits, centre):
    """In corners in either order, or around a centre; equal scores are in the order of the boxes."""
    rows = against_runtime(*some_boxes(len(limits)), *limits, center_point_box=centre)
    assert 6 <= len(rows) <= 360


@pytest.mark.parametrize("limits", [(), (0, 0.5), (100, 0.5, 2.0)], ids=str)
def test_nothing_is_selected(limits):
    assert not len(against_runtime(*some_boxes(0), *limits))


def test_a_box_without_area_suppresses_nothing():
    boxes = np.array([[[0, 0, 4, 4], [1, 1, 1, 3], [0, 0, 4, 4], [2, 2, 2, 2]]])
    assert against_runtime(boxes, np.array([[[4, 3, 2, 1]]]), 9, 0.5)[:, 2].tolist() == [0, 1, 3]
