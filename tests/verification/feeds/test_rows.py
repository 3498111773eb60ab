"""Feeds that read whole tables."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from verification_models import model

from bnfold.verification.feeds.rows import all_rows
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import ValueSpec

INT64 = np.dtype(np.int64)


def feeds(tmp_path, rows, ids, reads="ids"):
    """Of a table with so many rows, read by an input of that value or by another one."""
    nodes = [helper.make_node("Gather", ["t", reads], ["y"])]
    types = {"ids": TensorProto.INT64, "other": TensorProto.INT64}
    proto = model(nodes, {"ids": ids.shape, "other": [2]}, ["y"], {"t": np.zeros((rows, 3), "f4")}, types=types)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    specs = [ValueSpec("ids", "tensor(int64)", "tensor", INT64, ids.shape)]
    specs.append(ValueSpec("other", "tensor(int64)", "tensor", INT64, (2,)))
    return list(all_rows(OnnxFile(path, "m"), specs, {"ids": ids, "other": np.array([7, 7])}))


@pytest.mark.parametrize(("rows", "shape", "count"), [(40, (2, 3), 7), (6, (2, 3), 1), (5, (2, 3), 1), (1, (1,), 1)])
def test_every_row_is_read(tmp_path, rows, shape, count):
    found = feeds(tmp_path, rows, np.zeros(shape, np.int64))
    assert len(found) == count
    assert {int(row) for feed in found for row in feed["ids"].ravel()} == set(range(rows))
    assert all(feed["ids"].shape == shape and feed["ids"].dtype == INT64 for feed in found)
    assert all(feed["other"].tolist() == [7, 7] for feed in found)


def test_without_an_index_there_is_nothing_to_add(tmp_path):
    assert feeds(tmp_path, 4, np.zeros(0, np.int64)) == []
