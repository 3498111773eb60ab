"""A short run of the graph fuzzer, and the same graphs drawn and shrunk by hypothesis."""

from __future__ import annotations

from functools import partial

import pytest
from graph_checks import check, check_in_float64
from graph_choices import Drawn, Replayed, Seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import chain, grow

pytestmark = pytest.mark.slow

#: Graphs in one test; more of them are fuzz_graphs.py's business.
BATCH = 50


@settings(max_examples=500)
@given(st.data())
def test_rows_of_operators(data):
    check(chain, Drawn(data))


@settings(max_examples=200)
@given(st.data())
def test_whole_graphs(data):
    check(partial(grow, size=8), Drawn(data))


@pytest.mark.parametrize("batch", range(16))
def test_seeded_graphs(batch):
    for index in range(batch * BATCH, (batch + 1) * BATCH):
        check(partial(grow, size=16), Seeded(0, index))


@pytest.mark.parametrize("batch", range(4))
def test_seeded_graphs_in_float64(batch):
    """Where rounding hides nothing: a fold is right to twelve digits, or wrong."""
    for index in range(batch * 10, batch * 10 + 10):
        choices = Seeded(1, index)
        check(partial(grow, size=10), choices)
        check_in_float64(partial(grow, size=10), Replayed(choices.record))
