"""Four times the operators take about four times the work: counted in executed lines, not in seconds."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, lines_of

from bnfold.folding import fold_graph
from bnfold.formats import load

C = 4


def plain(net: Net, y: str, size: int) -> str:
    """Convolution, BatchNormalization, ReLU; one weight for all."""
    weight = net.const(net.draw(C, C, 1, 1))
    for _ in range(size // 3):
        y = net.op("Relu", net.bn(net.op("Conv", y, weight), C))
    return y


def stuck(net: Net, y: str, size: int) -> str:
    """BatchNormalizations that have nowhere to go."""
    for _ in range(size // 2):
        y = net.op("Tanh", net.bn(y, C))
    return y


def residual(net: Net, y: str, size: int) -> str:
    """Blocks with a BatchNormalization inside and one behind the activation."""
    for _ in range(size // 5):
        z = net.bn(net.op("Conv", y, net.draw(C, C, 1, 1)), C)
        y = net.bn(net.op("Relu", net.op("Add", z, y)), C)
    return y


def linear(net: Net, y: str, size: int) -> str:
    """Residual blocks without an activation: everything could move everywhere."""
    for _ in range(size // 3):
        y = net.op("Add", net.bn(net.op("Conv", y, net.draw(C, C, 1, 1)), C), y)
    return net.bn(y, C)


def meeting(net: Net, y: str, size: int) -> str:
    """Affines that are stuck on both sides of a sum, again and again."""
    for _ in range(size // 5):
        sides = [net.op("Add", net.op(kind, y), net.draw(C, 1, 1)) for kind in ("Tanh", "Sigmoid")]
        y = net.op("Add", *sides)
    return y


def wide(net: Net, y: str, size: int) -> str:
    """One Concat of branches, each with an affine that it cannot get rid of."""
    y = net.op("Tanh", y)
    return net.op("Tanh", net.op("Concat", *(net.bn(net.op("Sin", y), C) for _ in range(size // 2)), axis=1))


def nothing(net: Net, y: str, size: int) -> str:
    """Operators that do nothing."""
    for _ in range(size // 2):
        y = net.op("Mul", net.op("Identity", y), np.float32(1.0))
    return y


def run(net: Net, y: str, size: int) -> str:
    """Affines in a row that as one would vanish in float32."""
    y = net.op("Tanh", y)
    for index in range(size):
        y = net.op("Mul", y, np.float32(1e-30 if index < 2 else 2.0 if index % 2 else 0.5))
    return net.op("Tanh", y)


@pytest.mark.parametrize("build", [run, plain, stuck, residual, linear, meeting, wide, nothing])
def test_work_grows_like_the_graph(build):
    work = []
    for size in (150, 600):
        net = Net()
        y = build(net, net.input(2, C, 4, 4), size)
        net.output(y, shape=[2, None, 4, 4])
        graph = load(net.build()).graph
        work.append(lines_of(lambda graph=graph: fold_graph(graph)) / len(graph))
    assert work[1] < 1.25 * work[0], f"{work[0]:.0f} lines an operator became {work[1]:.0f}"
