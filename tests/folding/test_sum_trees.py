"""The shape of a sum, as far as it is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.folding.sum_trees import broadcast

SHAPES = {
    "alike": ([("N", 4, 5), ("N", 4, 5)], ("N", 4, 5)),
    "size one": ([("N", 4, 1), (1, 4, 6)], ("N", 4, 6)),
    "lower rank": ([(2, 4, 5), (5,)], (2, 4, 5)),
    "a symbol beside a size": ([("N", "C"), (2, 4)], (2, 4)),
    "two symbols": ([("N", "C"), ("M", "C")], (None, "C")),
    "an unknown size": ([(None, 4), (None, 4)], (None, 4)),
    "an unknown size beside a symbol": ([(None, 4), ("N", 4)], (None, 4)),
    "an unknown shape": ([(2, 4), None], None),
    "all of size one": ([(1, 1), (1,)], (1, 1)),
    "scalars": ([(), ()], ()),
}


@pytest.mark.parametrize(("shapes", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes_are_broadcast_as_far_as_they_are_known(shapes, expected):
    assert broadcast(shapes) == expected
    assert broadcast(reversed(shapes)) == expected


@given(st.lists(st.lists(st.sampled_from([1, 3]), max_size=4).map(tuple), min_size=1, max_size=4))
def test_known_shapes_are_broadcast_as_arrays_are(shapes):
    assert broadcast(shapes) == np.broadcast_shapes(*shapes)
