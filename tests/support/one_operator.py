"""Operators without a model around them: what their facts answer where shapes are or are not known."""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op, Param, Tensor
from bnfold.operators import Node, facts_of
from bnfold.operators.answers import Crossing
from bnfold.operators.onnx import ONNX
from bnfold.refusal import Refusal


def node_of(kind: str, *inputs: tuple | np.ndarray | None, outputs: int = 1, opset: int = 17, **attrs) -> Node:
    """An operator alone: an input is a constant, or data of a shape, or of an unknown one."""
    graph, names = ModelGraph(dialect=ONNX, opsets={"": opset}), [f"in_{slot}" for slot in range(len(inputs))]
    given = dict(zip(names, inputs, strict=True))
    graph.params = {name: Param.of(name, value) for name, value in given.items() if isinstance(value, np.ndarray)}
    graph.inputs = [Tensor(name, np.dtype(np.float32), given[name]) for name in names if name not in graph.params]
    op = Op("op", kind, tuple(names), tuple(f"out_{index}" for index in range(outputs)), attrs)
    graph.put(op)
    return Node(graph, op)


def plain(found: list[Crossing] | Crossing | Refusal) -> dict[int, Affine] | str:
    """The affines of a crossing, or the code of a refusal."""
    if isinstance(found, Refusal):
        return found.code
    return dict((found[0] if isinstance(found, list) else found).affines)


def lifted(node: Node, affine: Affine, index: int = 0) -> dict[int, Affine] | str:
    """What an affine on an output is on the inputs, by slot."""
    return plain(facts_of(node.op).lift(node, {index: affine}))


def sunk(node: Node, affine: Affine, slot: int = 0) -> dict[int, Affine] | str:
    """What an affine on an input is on the outputs, by index."""
    return plain(facts_of(node.op).sink(node, {slot: affine}))
