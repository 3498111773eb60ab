"""Where the channels of a linear operator lie in its weight: factors and sums, against loops over channels."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from helpers import Net, fold
from one_operator import node_of

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators import facts_of
from bnfold.operators.linear import Layout
from bnfold.operators.weights import PlainWeight
from bnfold.refusal import Refusal

#: The weight's shape, its axes of output and input channels, and how many there are of each: as in ONNX and in Keras.
LAYOUTS = {
    "out, in": ((4, 3), 0, 1, 4, 3),
    "in, out": ((3, 4), 1, 0, 4, 3),
    "out, in, taps": ((4, 6, 3, 2), 0, 1, 4, 6),
    "taps, in, out": ((3, 2, 6, 4), 3, 2, 4, 6),
    "taps, out, in": ((3, 2, 4, 6), 2, 3, 4, 6),
    "batch, in, out": ((2, 3, 4), 2, 1, 4, 3),
    "out, in of a group": ((6, 2, 3), 0, 1, 6, 6),
    "in, out of a group": ((6, 4, 3), 1, 0, 8, 6),
    "taps, in of a group, out": ((3, 2, 6), 2, 1, 6, 6),
    "taps, in, out of a group": ((3, 6, 2), 2, 1, 12, 6),
    "depthwise": ((6, 1, 3), 0, 1, 6, 6),
    "groups of one input": ((6, 1, 3), 0, 1, 6, 2),
    "out, in of several blocks": ((300, 2, 100), 0, 1, 300, 2),
    "out, in of a group of several blocks": ((300, 2, 100), 0, 1, 300, 100),
    "in, out of several blocks": ((300, 200), 1, 0, 200, 300),
    "taps, in, out of several blocks": ((300, 20, 10), 2, 1, 10, 20),
    "taps, in, out of a group of several blocks": ((3000, 6, 2), 2, 1, 12, 6),
    "one of each": ((1, 1, 2), 0, 1, 1, 1),
}
Case = tuple[tuple[int, ...], int, int, int, int]


def layout_of(case: Case) -> tuple[Layout, np.ndarray]:
    """The layout, with random values, and its weight as [out, in, taps]: zeros where a group does not look."""
    shape, out_axis, in_axis, out, inside = case
    values = np.random.default_rng(0).normal(size=shape)
    within = shape[out_axis], shape[in_axis]
    groups = (out // within[0]) * (inside // within[1])
    moved = np.moveaxis(values, (out_axis, in_axis), (0, 1)).reshape(*within, -1)
    dense = np.zeros((out, inside, moved.shape[2]))
    for o, i in product(range(out), range(inside)):
        if o // (out // groups) == i // (inside // groups):
            dense[o, i] = moved[o % within[0], i % within[1]]
    weight = PlainWeight(Param.of("w", values, np.dtype(np.float64)))
    layout = Layout(
        weight=weight, out_axis=1, in_axis=1, weight_out=out_axis, weight_in=in_axis, out_channels=out,
        in_channels=inside, groups=groups, gain=0.5,
    )  # fmt: skip
    return layout, dense


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS)
def test_a_shift_goes_through_every_layout(case):
    layout, dense = layout_of(case)
    shift = np.random.default_rng(1).normal(size=layout.in_channels)
    np.testing.assert_allclose(layout.through(shift), 0.5 * np.einsum("oit,i->o", dense, shift), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS)
def test_factors_scale_the_channels_of_every_layout(case):
    layout, dense = layout_of(case)
    shape, _, _, out, inside = case
    random = np.random.default_rng(2)
    of_outputs, of_inputs, shift = random.normal(size=out), random.normal(size=inside), random.normal(size=inside)
    for factor, expected in (
        (layout.out_factor(of_outputs), dense * of_outputs.reshape(-1, 1, 1)),
        (layout.in_factor(of_inputs), dense * of_inputs.reshape(1, -1, 1)),
    ):
        scaled = PlainWeight(Param.of("w", layout.weight.exact_rows(0, shape[0]) * factor))
        new = replace(layout, weight=scaled, gain=1.0)
        np.testing.assert_allclose(new.through(shift), np.einsum("oit,i->o", expected, shift), rtol=1e-9, atol=1e-12)


IMAGE = (1, 3, 8, 8)
WEIGHT = np.random.default_rng(3).normal(size=(4, 3, 3, 3)).astype(np.float32)
MATRIX = np.random.default_rng(4).normal(size=(3, 5)).astype(np.float32)
READERS = {
    "Conv": node_of("Conv", IMAGE, WEIGHT),
    "padded Conv": node_of("Conv", IMAGE, WEIGHT, pads=[1, 1, 1, 1]),
    "Conv with a bias": node_of("Conv", IMAGE, WEIGHT, np.ones(4, np.float32)),
    "Conv by a tensor": node_of("Conv", IMAGE, WEIGHT.shape),
    "ConvTranspose": node_of("ConvTranspose", IMAGE, np.moveaxis(WEIGHT, 0, 1)),
    "Gemm": node_of("Gemm", (2, 3), MATRIX),
    "MatMul": node_of("MatMul", (2, 3), MATRIX),
    "GRU": node_of("GRU", (7, 2, 3), np.ones((1, 6, 3), np.float32), np.ones((1, 6, 2), np.float32), hidden_size=2),
    "Mul": node_of("Mul", IMAGE, np.ones((3, 1, 1), np.float32)),
}


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("node", READERS.values(), ids=READERS)
def test_whether_an_affine_is_taken_in_is_known_without_the_numbers(node, shift):
    axis = 1 if node.op.type not in ("Gemm", "MatMul", "GRU") else len(node.shape(0)) - 1
    affines = {0: Affine.of(np.full(3, 2.0), shift, axis)}
    asked, taken = (getattr(facts_of(node.op), name)(node, affines) for name in ("would_absorb_input", "absorb_input"))
    assert type(asked) is type(taken)
    if isinstance(taken, Refusal):
        assert asked == taken
    for kept in ("inputs", "weights"):
        one, other = getattr(asked, kept, None), getattr(taken, kept, None)
        assert (one is None) == (other is None)
        if kept == "inputs" and other is not None:
            assert set(one) == set(other)


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_a_weight_without_elements_takes_an_affine(kind, rows, columns):
    net = Net()
    x = net.op("Add", net.op("Mul", net.input("B", rows), np.float32(2.0)), np.float32(0.5))
    weight = net.const(np.zeros((rows, columns)))
    net.output(net.op(kind, x, weight), shape=["B", columns])
    assert fold(net.build()).count("Mul") == 0
