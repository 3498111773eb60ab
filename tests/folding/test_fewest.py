"""No more affines are left than the mathematics demands, on random graphs small enough to be sure.

What the mathematics demands is computed in gauge.py, from equations for the whole graph at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from gauge import Node, Puzzle
from helpers import Net, fold_unrun
from onnx import ModelProto

pytestmark = pytest.mark.slow

C = 2
#: Kind of node → the ONNX operator that stands for it, with its attributes.
THROUGH = {
    "relu": [("Relu", {}), ("LeakyRelu", {"alpha": 0.2})],
    "nonlinear": [("Tanh", {}), ("Sigmoid", {})],
    "max": [("MaxPool", {"kernel_shape": [3, 3], "pads": [1] * 4})],
    "same": [("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}), ("Identity", {}), ("Dropout", {})],
    "counted": [("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1})],
}
JOINS = {"sum": "Add", "difference": "Sub", "product": "Mul", "concat": "Concat"}
KINDS = ["affine"] * 6 + ["conv"] * 3 + ["padded"] + list(THROUGH) + ["sum", "sum", "difference", "product", "concat"]


@dataclass
class Drawn:
    """A random model, and the same as nodes. Tensor 0 is the input."""

    net: Net
    rng: np.random.Generator
    names: list[str]
    widths: list[int]
    nodes: list[Node] = field(default_factory=list)

    def draw(self) -> None:
        """One more operator, most often behind the last."""
        kind = str(self.rng.choice(KINDS))
        first = len(self.names) - 1 if self.rng.random() < 0.6 else int(self.rng.integers(len(self.names)))
        second = int(self.rng.integers(len(self.names)))
        if kind in JOINS and (first == second or (kind != "concat" and self.widths[first] != self.widths[second])):
            return  # one tensor twice is a case of its own
        inputs = (first, second) if kind in JOINS else (first,)
        width = self.widths[first] + self.widths[second] if kind == "concat" else self.widths[first]
        width = C if kind in ("conv", "padded") else width
        scale, shift = (1.0,) * width, (0.0,) * width
        if kind == "affine":
            scale, shift = self._affine(width)
        self.names.append(self._made(kind, inputs, scale, shift))
        self.widths.append(width)
        self.nodes.append(Node(kind, inputs, len(self.names) - 1, scale, shift))

    def _affine(self, width: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        scale, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
        form = self.rng.choice(["batchnorm", "positive", "scale", "shift"])
        if form != "shift":
            scale = np.float32(self.rng.uniform(0.5, 2.0, width))
            if form == "batchnorm" and self.rng.random() < 0.5:
                scale[0] = -scale[0]
        if form != "scale":
            shift = np.float32(self.rng.normal(size=width))
        return tuple(map(float, scale)), tuple(map(float, shift))

    def _made(self, kind: str, inputs: tuple[int, ...], scale: Sequence[float], shift: Sequence[float]) -> str:
        names, net = [self.names[tensor] for tensor in inputs], self.net
        if kind == "affine":
            return net.exact_bn(names[0], scale, shift)
        if kind in ("conv", "padded"):
            taps, pads = ((1, 1), [0] * 4) if kind == "conv" else ((3, 3), [1] * 4)
            weight = net.draw(C, self.widths[inputs[0]], *taps)
            return str(net.op("Conv", names[0], weight, net.draw(C), pads=pads))
        if kind in THROUGH:
            operator, attrs = THROUGH[kind][self.rng.integers(len(THROUGH[kind]))]
            return str(net.op(operator, names[0], **attrs))
        return str(net.op(JOINS[kind], *names, **({"axis": 1} if kind == "concat" else {})))


def random_graph(seed: int, size: int) -> tuple[ModelProto, Puzzle]:
    """A model, and what there is to be solved about it."""
    net = Net(seed=seed)
    drawn = Drawn(net, np.random.default_rng(seed), [net.input("N", C, 4, 4)], [C])
    for _ in range(size):
        drawn.draw()
    read = {tensor for node in drawn.nodes for tensor in node.inputs}
    outputs = [node.output for node in drawn.nodes if node.output not in read or drawn.rng.random() < 0.05]
    model = net.build(*(drawn.names[tensor] for tensor in outputs))
    return model, Puzzle(tuple(drawn.nodes), frozenset({0, *outputs}), tuple(drawn.widths))


def affines_left(model: ModelProto) -> int:
    """BatchNormalizations, and arithmetic with a constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return sum(
        node.op_type == "BatchNormalization"
        or (node.op_type in ("Mul", "Add", "Sub", "Div") and any(name in constants for name in node.input))
        for node in model.graph.node
    )


@pytest.mark.parametrize("seed", range(250))
def test_no_more_affines_are_left_than_have_to_be(seed):
    model, puzzle = random_graph(seed, size=8)
    if puzzle.nodes:
        folded = fold_unrun(model, branches=False)
        assert affines_left(folded.after) <= puzzle.fewest_left(), folded.sentences


@pytest.mark.slow
def test_of_thousands_of_graphs_hardly_one_has_an_affine_more():
    """The search one by one runs first, and what it composes into others is not taken out again (docs/algebra.md)."""
    more = []
    for seed in range(250, 2000):
        model, puzzle = random_graph(seed, size=8)
        if puzzle.nodes:
            more.append(affines_left(fold_unrun(model, branches=False).after) - puzzle.fewest_left())
    assert max(more) <= 1
    assert more.count(1) <= 4
