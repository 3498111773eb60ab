"""Whatever the graph: equalised it computes the same, twice is once, and no ratio of ranges gets much worse."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import random_graphs
from graph_choices import Drawn, Seeded
from helpers import Net, assert_close, random_feeds, run
from hypothesis import given, settings
from hypothesis import strategies as st
from level_nets import C, LevelNet, equalized, imbalances, same_bits

import bnfold

#: With a bias of this size on some layers it also says how far scales may rise.
BIAS = 0.5
#: Mostly layers with weights and what passes scales: few of the usual random graphs have anything to equalise.
WEIGHTS = {"linear": 55, "affine": 2, "through": 12, "activation": 8, "join": 22, "body": 1}


def random_net(seed: int, *, bias: float) -> tuple[LevelNet, bnfold.ModelGraph, set[str]]:
    """Convolutions, full, grouped and depthwise, residual streams, pools, and now and then a second output."""
    made = LevelNet(Net(seed=seed))
    rng, x = made.net.rng, made.input()
    tensors = [made.conv(x, bias=bias)]
    for _ in range(rng.integers(2, 9)):
        x = tensors[rng.integers(max(0, len(tensors) - 3), len(tensors))]
        kind = rng.choice(["conv", "conv", "depthwise", "grouped", "Relu", "MaxPool", "Add"])
        if kind == "Add":
            tensors.append(made.same("Add", x, tensors[rng.integers(len(tensors))]))
        elif kind == "MaxPool":
            tensors.append(made.same(kind, x, kernel_shape=[3, 3], pads=[1] * 4))
        elif kind == "Relu":
            tensors.append(made.same(kind, x))
        else:
            groups = {"conv": 1, "grouped": 2, "depthwise": C}[kind]
            tensors.append(made.conv(x, groups=groups, kernel=int(rng.choice([1, 3])), bias=bias * rng.integers(2)))
    ends = {"x", made.conv(tensors[-1], bits=0.0)}
    if rng.integers(3) == 0:
        ends.add(tensors[rng.integers(len(tensors))])
    return made, made.net.build(*sorted(ends - {"x"})), ends


@pytest.mark.parametrize("bias", [0.0, BIAS])
@pytest.mark.parametrize("batch", range(4))
def test_random_streams(batch, bias):
    scaled = 0
    for seed in range(batch * 15, batch * 15 + 15):
        made, model, ends = random_net(seed, bias=bias)
        result, after = equalized(model, branches=False)
        scaled += bool(result.plan.scaled)
        assert same_bits(model, after, random_feeds(model, seed=seed))
        again, _ = equalized(after, branches=False)
        assert not again.plan.scaled
        used = {name for node in after.graph.node for name in [node.name]}
        made.layers = {name: ends_ for name, ends_ in made.layers.items() if name in used}
        before, behind = imbalances(made, model, ends), imbalances(made, after, ends)
        for tensor, bits in behind.items():
            old = np.abs(before[tensor])
            assert (np.abs(bits) <= np.maximum(old, 0.0) + 1 + 1e-6).all()
            if not bias:
                assert (np.abs(bits) <= 1 + 1e-6).all()
    assert scaled > 10


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


@pytest.mark.usefixtures("layers_mostly")
def test_random_graphs():
    build = partial(random_graphs.grow, size=16)
    assert sum(check_any(build(Net(seed=index), Seeded(7, index))) for index in range(60)) > 10


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_drawn_graphs(data):
    check_any(random_graphs.grow(Net(seed=1), Drawn(data), size=8))
