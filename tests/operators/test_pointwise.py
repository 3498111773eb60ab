"""Which maps of channels are convolutions of a single tap."""

from __future__ import annotations

import numpy as np
import pytest
from convolutions import FLOAT, apply, image

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op, Tensor
from bnfold.operators import Node
from bnfold.operators.keras import KERAS
from bnfold.operators.onnx import ONNX
from bnfold.operators.pointwise import of_affine

CHANNELS_OF = Affine.of(np.arange(4.0), np.ones(4), 1)
OF_AFFINES = {
    "a map of channels": (ONNX, (2, 4, 5), FLOAT, CHANNELS_OF, None, 1),
    "a map of all": (ONNX, (2, 4, 5), FLOAT, Affine.of(2.0, 1.0, None), None, 1),
    "a map of all in Keras": (KERAS, (2, 5, 4), FLOAT, Affine.of(2.0, 1.0, None), None, 2),
    "a map of all, on a given axis": (KERAS, (2, 4, 5), FLOAT, Affine.of(2.0, 1.0, None), 1, 1),
    "a map of rows": (ONNX, (2, 5, 4), FLOAT, Affine.of(np.arange(4.0), np.ones(4), 2), None, 2),
    "vectors": (ONNX, (2, 4), FLOAT, CHANNELS_OF, None, None),
    "unknown rank": (ONNX, None, FLOAT, CHANNELS_OF, None, None),
    "unknown size": (ONNX, (2, "C", 5), FLOAT, CHANNELS_OF, None, None),
    "unknown type": (ONNX, (2, 4, 5), None, CHANNELS_OF, None, None),
    "several axes": (ONNX, (2, 4, 5), FLOAT, Affine.over((1, 2), image(4, 5), np.ones((4, 5))), None, None),
}


@pytest.mark.parametrize(("dialect", "shape", "dtype", "affine", "given", "axis"), OF_AFFINES.values(), ids=OF_AFFINES)
def test_which_maps_are_convolutions(dialect, shape, dtype, affine, given, axis):
    graph = ModelGraph(dialect=dialect)
    graph.put(Op("op", "Any", ("x",), ("y",)))
    graph.declare(Tensor("y", dtype, shape))
    found = of_affine(Node(graph, graph.op("op")), affine, 3.0, given)
    assert (None if found is None else found.channel_axis) == axis
    if found is not None:
        assert found.shape == (4, 1, 1)
        assert found.channels == (4, 4)
        assert found.macs == 12.0
        assert found.plain is affine
        x = image(4, 5)
        scale, shift = (np.broadcast_to(vector, 4).reshape(4, 1) for vector in (affine.scale, affine.shift))
        np.testing.assert_allclose(apply(found, x), scale * x + shift)
