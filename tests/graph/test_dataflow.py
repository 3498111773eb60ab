"""The order in which values can be computed."""

from __future__ import annotations

import pytest

from bnfold.graph import ModelGraph, Op, dataflow_order


def graph_of(*edges: str) -> ModelGraph:
    """Operators written as ``inputs>output``, one letter a tensor; each is called as what it puts out."""
    graph = ModelGraph()
    for edge in edges:
        inputs, output = edge.split(">")
        graph.put(Op(output, "Op", tuple(inputs), (output,)))
    return graph


def test_the_dataflow_order_is_the_longest_path():
    order = dataflow_order(graph_of("ad>e", "x>a", "a>b", "b>d", "x>f"))
    assert {name: order[name] for name in order} == {"a": 1, "f": 1, "b": 2, "d": 3, "e": 4}


def test_captures_are_edges_of_the_dataflow():
    graph = graph_of("x>a")
    graph.put(Op("loop", "Loop", (), ("l",), captures=("a",)))
    order = dataflow_order(graph)
    assert order["a"] < order["loop"]


def test_a_cycle_has_no_order():
    with pytest.raises(ValueError, match="cycle"):
        dataflow_order(graph_of("x>a", "ac>b", "b>c"))
