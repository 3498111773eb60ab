"""LSTM, GRU and RNN take an affine in from the side of their input."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_stays, fold, fold_unrun

IN, HIDDEN, STEPS = 4, 3, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def recurrent(net: Net, x: str, kind: str, *, direction: str = "forward", bias: bool = True, **attrs) -> str:
    rows, ways = GATES[kind] * HIDDEN, DIRECTIONS[direction]
    operands = [net.draw(ways, rows, IN), net.draw(ways, rows, HIDDEN)]
    operands += [net.draw(ways, 2 * rows)] if bias else []
    outputs = [f"{kind}_y", f"{kind}_h"]
    y, _ = net.op(kind, x, *operands, hidden_size=HIDDEN, direction=direction, outputs=outputs, name="cell", **attrs)
    return y


def scaled(net: Net, *shape, shift: bool = True) -> str:
    x = net.op("Mul", net.op("Tanh", net.input(*shape)), net.draw(IN))
    return net.op("Add", x, net.draw(IN)) if shift else x


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", GATES)
def test_an_affine_goes_into_the_input_weights(kind, direction, bias):
    net = Net()
    folded = fold(net.build(recurrent(net, scaled(net, STEPS, "B", IN), kind, direction=direction, bias=bias)))
    assert folded.count() == 2


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_the_reset_of_a_gru_does_not_matter_for_its_input(linear_before_reset):
    net = Net()
    y = recurrent(net, scaled(net, STEPS, "B", IN), "GRU", linear_before_reset=linear_before_reset)
    assert fold(net.build(y)).count() == 2


def test_a_pure_scale_makes_no_bias():
    net = Net()
    folded = fold(net.build(recurrent(net, scaled(net, STEPS, "B", IN, shift=False), "LSTM", bias=False)))
    assert len(folded.node("LSTM").input) == 3


def test_sequence_lengths_do_not_matter():
    net = Net()
    lengths = net.input("B", name="lengths", dtype=np.int32)
    rows = GATES["LSTM"] * HIDDEN
    operands = [net.draw(1, rows, IN), net.draw(1, rows, HIDDEN), net.draw(1, 2 * rows), lengths]
    y, _ = net.op("LSTM", scaled(net, STEPS, "B", IN), *operands, hidden_size=HIDDEN, outputs=["y", "h"])
    assert fold(net.build(y), high=STEPS).count() == 2


@pytest.mark.parametrize(("slot", "code"), [(1, "dynamic-weights"), (3, "dynamic-bias")])
def test_weights_computed_at_run_time_refuse(slot, code):
    net = Net()
    rows = GATES["GRU"] * HIDDEN
    operands = [net.draw(1, rows, IN), net.draw(1, rows, HIDDEN), net.draw(1, 2 * rows)]
    operands[slot - 1] = net.input(*operands[slot - 1].shape, name="fed")
    y, _ = net.op("GRU", scaled(net, STEPS, "B", IN), *operands, hidden_size=HIDDEN, outputs=["y", "h"], name="cell")
    folded = fold(net.build(y))
    assert code in folded.codes, folded.sentences
    assert "cell (GRU)" in folded.sentences


def test_an_affine_on_the_state_refuses():
    net = Net()
    state = net.op("Mul", net.op("Tanh", net.input(1, 2, HIDDEN)), net.draw(HIDDEN))
    operands = [net.draw(1, HIDDEN, IN), net.draw(1, HIDDEN, HIDDEN), "", "", state]
    y, _ = net.op("RNN", net.input(STEPS, 2, IN), *operands, hidden_size=HIDDEN, outputs=["y", "h"], name="cell")
    assert_stays(fold(net.build(y)), "state", "cell (RNN)")


def test_an_affine_along_the_steps_refuses():
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input(IN, IN, IN)), net.draw(IN), net.draw(IN))
    assert_stays(fold(net.build(recurrent(net, x, "LSTM"))), "other-axis", "cell (LSTM)")


def test_nothing_goes_back_into_a_recurrent_cell():
    net = Net()
    y = net.op("Squeeze", recurrent(net, net.input(STEPS, "B", IN), "LSTM"), np.array([1]))
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(HIDDEN)))))
    assert_stays(folded, "unknown-operator", "cell (LSTM)")


@pytest.mark.parametrize("small", [1.0, 1e-3])
def test_the_weights_of_each_gate_have_to_survive_rounding(small):
    net = Net(dtype=np.float16)
    weight = np.ones((1, HIDDEN, IN), np.float16)
    weight[0, 1] = small
    x = net.op("Mul", net.op("Tanh", net.input(STEPS, 2, IN)), np.full(IN, 1e-3, np.float16))
    y, _ = net.op("RNN", x, weight, net.draw(1, HIDDEN, HIDDEN), hidden_size=HIDDEN, outputs=["y", "h"], name="cell")
    folded = fold_unrun(net.build(y))
    if small == 1.0:
        assert folded.count() == 2
    else:
        assert_stays(folded, "fp16-overflow", "cell (RNN)", "vanish")
