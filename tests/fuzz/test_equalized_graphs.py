"""Random graphs of everything that folding knows, equalised: the same outputs, and twice is once."""

from __future__ import annotations

from functools import partial

import pytest
import random_graphs
from graph_choices import Drawn, Seeded
from helpers import Net, assert_close, random_feeds, run
from hypothesis import given, settings
from hypothesis import strategies as st
from level_nets import equalized, same_bits

import bnfold

#: Mostly layers with weights and what passes scales: few of the usual random graphs have anything to equalise.
WEIGHTS = {"linear": 55, "affine": 2, "through": 12, "activation": 8, "join": 22, "body": 1}


def check_any(model) -> bool:
    """Everything that folding knows, as the fuzzer draws it; was anything scaled?"""
    folded = bnfold.fold(model).model
    result, after = equalized(folded)
    feeds = random_feeds(model, size=3)
    assert same_bits(folded.to_proto(), after, feeds)
    assert not equalized(after)[0].plan.scaled
    exact, level = equalized(folded, exact=True)
    if exact.plan.scaled:
        assert_close(run(folded.to_proto(), feeds), run(level, feeds), slack=10)
    return bool(result.plan.scaled)


@pytest.fixture
def layers_mostly(monkeypatch):
    monkeypatch.setattr(random_graphs, "WEIGHTS", WEIGHTS)


@pytest.mark.slow
@pytest.mark.usefixtures("layers_mostly")
def test_random_graphs():
    build = partial(random_graphs.grow, size=16)
    assert sum(check_any(build(Net(seed=index), Seeded(7, index))) for index in range(60)) > 10


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_drawn_graphs(data):
    check_any(random_graphs.grow(Net(seed=1), Drawn(data), size=8))
