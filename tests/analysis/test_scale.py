"""Analysis on a long network: the cost grows with the number of operators, not faster."""

from __future__ import annotations

import numpy as np
from helpers import lines_of

from bnfold.analysis import all_rules
from bnfold.analysis.context import contexts_of
from bnfold.folding import Plan
from bnfold.graph import ModelGraph, Op, Param, Tensor
from bnfold.operators.onnx import ONNX

FLOAT = np.dtype(np.float32)


def long_network(count: int) -> ModelGraph:
    """Residual blocks ``x + bn(conv(x))`` and a ReLU after every third, ``count`` operators in all."""
    rng = np.random.default_rng(0)
    graph = ModelGraph(dialect=ONNX, opsets={"": 17})
    graph.inputs = [Tensor("x", FLOAT, (1, 4, 8, 8))]
    params = {
        "weight": rng.normal(size=(4, 4, 1, 1)), "bias": rng.normal(size=4), "gamma": rng.uniform(0.5, 1.5, 4),
        "beta": rng.normal(size=4), "mean": rng.normal(size=4), "variance": rng.uniform(0.5, 1.5, 4),
    }  # fmt: skip
    graph.params = {name: Param.of(name, values.astype(np.float32)) for name, values in params.items()}
    tensor, number = "x", 0

    def put(kind: str, *inputs: str) -> str:
        name = f"{kind.lower()}_{number}"
        graph.put(Op(name, kind, inputs, (name,), label=name))
        graph.declare(Tensor(name, FLOAT, (1, 4, 8, 8)))
        return name

    while len(graph) < count:
        convolved = put("Conv", tensor, "weight", "bias")
        normal = put("BatchNormalization", convolved, "gamma", "beta", "mean", "variance")
        tensor = put("Add", normal, tensor)
        tensor = put("Relu", tensor) if number % 3 == 0 else tensor
        number += 1
    graph.outputs = [tensor]
    return graph


def work(count: int) -> float:
    """Lines of the package that are executed for one operator."""
    graph = long_network(count)

    def analyze() -> None:
        (scope,) = contexts_of(graph, Plan())
        assert sum(1 for rule in all_rules() for _ in rule.check(scope)) > 0

    return lines_of(analyze) / count


def test_work_grows_like_the_graph() -> None:
    small, large = work(200), work(1_000)
    assert large < 1.1 * small, f"{small:.0f} lines an operator became {large:.0f}"
