"""Channels that behave alike share one system; those that do not have their own."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, fold
from streams import C, activated, conv, head, stem, stream, together

from bnfold.folding.gauges import strands, survey
from bnfold.folding.gauges.strands import connected, groups_of
from bnfold.folding.targets import Folder
from bnfold.formats import load


@pytest.mark.parametrize("seed", range(30))
def test_cells_are_connected_as_a_walk_over_the_pairs_finds(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 40, (2, 30))
    found = connected(40, [(first[:10], second[:10]), (first[10:], second[10:])])
    ways = [(int(a), int(b)) for pair in zip(first, second, strict=True) for a, b in (pair, pair[::-1])]
    for start in range(40):
        reached, stack = {start}, [start]
        while stack:
            here = stack.pop()
            fresh = {b for a, b in ways if a == here} - reached
            reached |= fresh
            stack += fresh
        assert found[start] == min(reached)


def groups_in(net: Net, x: str) -> list[int]:
    """How many strands each group of the only component has."""
    graph = load(head(net, x)).graph
    folder = Folder(graph, ())
    folder.run()
    blocked = {op.name: candidate for candidate, _, _ in folder._blocked.values() for op in candidate.ops}
    start = next(iter(blocked.values()))
    component = survey.Survey(folder._context, blocked).run(start, survey.own_axes(graph, start))
    alive = {removal.head: np.ones(removal.scale.size, bool) for removal in component.removals}
    return sorted(len(group.variables) for group in groups_of(strands.contracted(component, alive)) if group.heads)


def test_the_channels_of_a_residual_stream_share_one_system():
    net = Net()
    x = stem(net)
    for number in range(2):
        x = net.op("Add", x, conv(net, activated(net, x, f"bn{number}")))
    assert groups_in(net, x) == [C]


def test_channels_that_go_different_ways_do_not():
    net = Net()
    x = stem(net)
    x = net.op("Add", x, conv(net, activated(net, x, "bn")))
    left, right = net.op("Split", x, np.array([2, C - 2]), outputs=2, axis=1)
    x = net.op("Concat", left, conv(net, right, C - 2, width=C - 2), axis=1)
    x = net.op("Add", x, conv(net, activated(net, x, "bn2")))
    assert sum(groups_in(net, x)) >= C
    assert len(groups_in(net, x)) > 1


@pytest.mark.parametrize("both_signs", [False, True])
def test_one_channel_that_stands_for_all_says_what_each_of_them_says(monkeypatch, both_signs):
    rng = np.random.default_rng(5)
    signs = [rng.choice([-1.0, 1.0], C) if both_signs else np.ones(C) for _ in range(3)]
    model = stream(*({"gamma": sign * rng.uniform(0.5, 1.5, C)} for sign in signs))
    shared = fold(model)
    seen = []
    width = strands._width
    monkeypatch.setattr(strands, "_width", lambda *given: seen.append(width(*given)) or 1)
    alone = fold(model)
    assert C in seen
    assert [node.op_type for node in shared.after.graph.node] == [node.op_type for node in alone.after.graph.node]
    assert together(shared) == together(alone)
    for one, other in zip(shared.after.graph.initializer, alone.after.graph.initializer, strict=True):
        np.testing.assert_array_equal(shared.constant(one.name), alone.constant(other.name))
