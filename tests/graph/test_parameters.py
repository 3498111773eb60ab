from __future__ import annotations

import numpy as np
import pytest

from bnfold.graph import Memory, Param
from bnfold.graph.parameters import Unrounded


class Watched:
    """Data that counts how often it is read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.reads = values, 0

    def read(self) -> np.ndarray:
        self.reads += 1
        return self.values

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.reads += 1
        return self.values[start:stop]


def test_nothing_is_read_before_it_is_asked_for():
    source = Watched(np.ones((4, 2), np.float32))
    param = Param("w", np.dtype(np.float32), (4, 2), source)
    scaled = param.renamed("v").scaled(np.full((4, 1), 2.0)).shifted(np.ones((1, 2)))
    assert scaled.size == 8
    assert scaled.nbytes == 32
    assert source.reads == 0
    assert (scaled.array() == 3).all()


def test_several_changes_are_rounded_once():
    """In float16 each of these steps alone would round."""
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    factors = [np.full((5, 1), 1 / 3), np.full((1, 3), 3.0), np.full((1, 1), 1 / 7)]
    param = Param.of("w", values)
    exact = values.astype(np.float64)
    for factor in factors:
        param, exact = param.scaled(factor), exact * factor
    param, exact = param.shifted(np.full((5, 1), 1e-3)), exact + 1e-3
    np.testing.assert_array_equal(param.exact(), exact)
    np.testing.assert_array_equal(param.array(), exact.astype(np.float16))


@pytest.mark.parametrize(("rows", "reads"), [(512, 1), (513, 2)])
def test_what_is_computed_of_a_small_constant_is_kept(rows, reads):
    """Up to 4096 bytes of float64, whichever piece is asked for next."""
    source = Watched(np.arange(rows, dtype=np.float32))
    scaled = Param("w", np.dtype(np.float32), (rows,), source).scaled(np.full(1, 1 / 3))
    exact = scaled.exact()
    np.testing.assert_array_equal(exact, np.arange(rows) * (1 / 3))
    np.testing.assert_array_equal(scaled.array(), exact.astype(np.float32))
    assert source.reads == reads
    again = scaled.shifted(np.ones(1))
    np.testing.assert_array_equal(again.exact_rows(2, 5), exact[2:5] + 1.0)
    np.testing.assert_array_equal(scaled.exact_rows(2, 5), exact[2:5])


def test_a_piece_of_a_small_constant_is_not_taken_for_the_whole():
    scaled = Param.of("w", np.arange(6.0).reshape(3, 2), np.dtype(np.float32)).scaled(np.full((3, 1), 2.0))
    np.testing.assert_array_equal(scaled.exact_rows(1, 2), [[4.0, 6.0]])
    np.testing.assert_array_equal(scaled.exact(), np.arange(6.0).reshape(3, 2) * 2.0)
    np.testing.assert_array_equal(scaled.exact_rows(1, 2), [[4.0, 6.0]])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (7, 5), (7, 2, 3)])
def test_blocks_are_the_array_in_pieces(shape):
    values = np.random.default_rng(1).normal(size=shape)
    param = Param.of("w", values, np.dtype(np.float32)).scaled(np.full((1,) * len(shape), 3.0))
    pieces = [block.reshape(-1) for block in param.blocks(max_bytes=40)]
    np.testing.assert_array_equal(np.concatenate(pieces), param.array().reshape(-1))
    np.testing.assert_array_equal(param.exact(), values * 3.0)


def test_the_exact_values_are_not_rounded():
    param = Param.of("w", np.array([1 / 3]), np.dtype(np.float32))
    assert param.exact()[0] == 1 / 3
    assert param.array()[0] == np.float32(1 / 3)
    assert isinstance(param.data, Memory)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_the_exact_values_of_what_is_computed_when_wanted_are_not_rounded(shape):
    values = np.full(shape, 1 / 3)
    param = Param("w", np.dtype(np.float32), shape, Unrounded(lambda: values, np.dtype(np.float32)))
    assert param.is_rounded
    np.testing.assert_array_equal(param.exact(), values)
    np.testing.assert_array_equal(param.array(), values.astype(np.float32))


@pytest.mark.parametrize("factor", [np.ones(3), np.ones((2, 3)), np.ones((1, 4)), np.ones((3, 1, 1))])
def test_a_factor_that_does_not_fit_is_refused(factor):
    with pytest.raises(ValueError, match="shape"):
        Param.of("w", np.ones((1, 3))).scaled(factor)
