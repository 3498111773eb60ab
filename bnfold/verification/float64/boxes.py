"""Boxes of a detector: onnx's reference implementation compares each pair in Python, which takes minutes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, operator


@operator("NonMaxSuppression")
def _non_max_suppression(call: Call) -> Array:
    """Rows of image, class and box: of each class the best box, then the next best that it does not overlap, …"""
    boxes, scores = call.inputs[:2]
    most, overlap = (_number(call, slot, 0.0) for slot in (2, 3))
    least = _number(call, 4, -np.inf)
    first, second = boxes[..., :2], boxes[..., 2:]
    if call.attribute("center_point_box", 0):
        low, high = first - second / 2, first + second / 2
    else:
        low, high = np.minimum(first, second), np.maximum(first, second)
    rows = [
        (image, kind, box)
        for image in range(scores.shape[0])
        for kind in range(scores.shape[1])
        for box in _kept(low[image], high[image], scores[image, kind], int(most), overlap, least)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def _number(call: Call, slot: int, default: float) -> float:
    value = call.get(slot)
    return default if value is None or not np.size(value) else float(np.ravel(value)[0])


def _kept(low: Array, high: Array, scores: Array, most: int, overlap: float, least: float) -> Iterator[int]:
    left = np.argsort(-scores, kind="stable")  # of equal scores the first box is better
    left = left[scores[left] > least]
    low, high = low[left].T.copy(), high[left].T.copy()  # [2, boxes]
    area = (high[0] - low[0]) * (high[1] - low[1])
    for _ in range(most):
        if not left.size:
            return
        yield int(left[0])
        common = np.minimum(high[:, :1], high[:, 1:]) - np.maximum(low[:, :1], low[:, 1:])
        np.maximum(common, 0.0, out=common)
        shared = common[0] * common[1]
        union = area[0] + area[1:] - shared
        stays = (shared <= overlap * union) | (shared <= 0) | (area[1:] <= 0) | (union <= 0) | (area[0] <= 0)
        left, area, low, high = left[1:][stays], area[1:][stays], low[:, 1:][:, stays], high[:, 1:][:, stays]
