"""Who sees the values of a tensor, and what a sentence calls them."""

from __future__ import annotations

from collections.abc import Container
from itertools import islice

from bnfold.graph import ModelGraph, Use
from bnfold.operators import value_readers


def output_phrase(graph: ModelGraph) -> str:
    """What a sentence calls an output of this graph."""
    return "the model's output" if graph.parent is None else "an output of the subgraph"


def input_phrase(graph: ModelGraph, tensor: str) -> str:
    """What a sentence calls a tensor that no operator of this graph computes."""
    if graph.parent is None:
        return "an input of the model"
    return "an input of the subgraph" if graph.is_input(tensor) else "from outside of the subgraph"


def reader_phrase(graph: ModelGraph, use: Use) -> str:
    """What a sentence calls the reader of a tensor."""
    reader = graph.op(use.op).display
    return f"the body of {reader}" if use.slot is None else reader


def other_reader(graph: ModelGraph, tensor: str, known: Container[Use]) -> Use | None:
    """A read of the tensor's values that is not among ``known``."""
    return next((use for use in value_readers(graph, tensor) if use not in known), None)


def sole_value_reader(graph: ModelGraph, tensor: str) -> Use | None:
    """:meth:`ModelGraph.sole_reader`, not counting those that ask for the tensor's shape alone."""
    uses = list(islice(value_readers(graph, tensor), 2))
    if len(uses) != 1 or uses[0].slot is None or graph.is_output(tensor):
        return None
    return uses[0]
