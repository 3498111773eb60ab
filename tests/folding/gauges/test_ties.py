"""What operators demand of the gauges around them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net

from bnfold.folding.gauges.component import Component
from bnfold.folding.gauges.ties import Tie
from bnfold.formats import load

C = 4


@pytest.mark.parametrize("constant", [True, False])
def test_an_operand_that_weights_multiply_is_tied_to_no_other(constant: bool) -> None:
    """A Gemm with a computed C: its data may have any scale that constant weights take in."""
    net = Net()
    data, other = net.op("Tanh", net.input(2, C)), net.op("Sigmoid", net.input(2, C))
    weight = net.draw(C, C) if constant else net.op("Sin", net.input(C, C))
    output = net.op("Gemm", data, weight, other, name="product")
    graph = load(net.build(net.op("Exp", output))).graph
    component = Component()
    for tensor in (data, other, output):
        component.reach(tensor, 1, C)
    assert Tie(graph, component, graph.op("product")).read() == constant
    pinned = {int(cell) for rows in component.rows if rows.cells.shape[1] == 1 for cell in rows.cells.ravel()}
    assert not np.isin(component.frames[data].cells, list(pinned)).any()
