"""No more affines are left than the mathematics demands, on random graphs small enough to be sure.

What the mathematics demands is computed in gauge.py, from equations for the whole graph at once.
"""

from __future__ import annotations

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
KINDS = ["affine"] * 6 + ["conv"] * 3 + ["padded"] + list(THROUGH) + ["sum", "sum", "difference", "product"]


def random_graph(seed: int, size: int) -> tuple[ModelProto, list[Node], list[int]]:
    """A model, the same as a list of nodes, and the numbers of its output tensors. Tensor 0 is the input."""
    rng = np.random.default_rng(seed)
    net = Net(seed=seed)
    names = [net.input("N", C, 4, 4)]
    nodes: list[Node] = []
    for _ in range(size):
        kind = str(rng.choice(KINDS))
        first = len(names) - 1 if rng.random() < 0.6 else int(rng.integers(len(names)))
        second = int(rng.integers(len(names)))
        if kind in ("sum", "difference", "product") and first == second:
            continue  # one tensor twice is a case of its own
        _add(net, rng, nodes, names, kind, (first, second))
    read = {tensor for node in nodes for tensor in node.inputs}
    outputs = [node.output for node in nodes if node.output not in read or rng.random() < 0.05]
    return net.build(*(names[tensor] for tensor in outputs)), nodes, outputs


def _add(
    net: Net, rng: np.random.Generator, nodes: list[Node], names: list[str], kind: str, operands: tuple[int, int]
) -> None:
    x, y = (names[tensor] for tensor in operands)
    scale, shift = [1.0] * C, [0.0] * C
    inputs = operands[:1]
    if kind == "affine":
        form = rng.choice(["batchnorm", "positive", "scale", "shift"])
        if form != "shift":
            scale = [float(value) for value in np.float32(rng.uniform(0.5, 2.0, C))]
            if form == "batchnorm" and rng.random() < 0.5:
                scale[0] = -scale[0]
        if form != "scale":
            shift = [float(value) for value in np.float32(rng.normal(size=C))]
        made = net.exact_bn(x, scale, shift)
    elif kind in ("conv", "padded"):
        taps, pads = ((1, 1), [0] * 4) if kind == "conv" else ((3, 3), [1] * 4)
        made = net.op("Conv", x, net.draw(C, C, *taps), net.draw(C), pads=pads)
    elif kind in THROUGH:
        operator, attrs = THROUGH[kind][rng.integers(len(THROUGH[kind]))]
        made = net.op(operator, x, **attrs)
    else:
        made = net.op({"sum": "Add", "difference": "Sub", "product": "Mul"}[kind], x, y)
        inputs = operands
    names.append(made)
    nodes.append(Node(kind, inputs, len(names) - 1, tuple(scale), tuple(shift)))


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
    model, nodes, outputs = random_graph(seed, size=8)
    if nodes:
        fewest = Puzzle(tuple(nodes), frozenset({0, *outputs}), C).fewest_left()
        folded = fold_unrun(model, branches=False)
        assert affines_left(folded.after) <= fewest, folded.sentences
