"""The fewest operators that compute an affine, and those that add tensors up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from convolutions import convolution
from helpers import BFLOAT16, Net, run

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Param, Tensor
from bnfold.operators.dialect import DATA, Dialect, cheapest_form, dialect_of
from bnfold.operators.keras import KERAS
from bnfold.operators.onnx import ONNX
from bnfold.refusal import Refusal

FLOAT = np.dtype(np.float32)
SIZES = (2, 3, 4)
RANDOM = np.random.default_rng(0)
SCALE, SHIFT = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, -3.0])


def graph_of(shape: Sequence[int] | None, *, opset: int = 17, dialect: Dialect = ONNX) -> ModelGraph:
    """A graph that knows no more than the shape of its input ``x``."""
    graph = ModelGraph(dialect=dialect, opsets={"": opset})
    graph.inputs = [Tensor("x", FLOAT, None if shape is None else tuple(shape))]
    return graph


GRID = Affine.over((0, 2), RANDOM.normal(size=(2, 4)), RANDOM.normal(size=(2, 4)))
NO_SHIFT, NO_SCALE = np.zeros(3), np.ones(3)
FORMS = {
    "identity": (Affine.identity(), []),
    "number that scales": (Affine.of(2.0, 0.0, None), ["Mul"]),
    "number that shifts": (Affine.of(1.0, 2.0, None), ["Add"]),
    "numbers": (Affine.of(2.0, 3.0, None), ["Mul", "Add"]),
    "scale of channels": (Affine.of(SCALE, NO_SHIFT, 1), ["Mul"]),
    "shift of channels": (Affine.of(NO_SCALE, SHIFT, 1), ["Add"]),
    "channels": (Affine.of(SCALE, SHIFT, 1), ["BatchNormalization"]),
    "rows": (Affine.of([2.0, 3.0], [1.0, 0.0], 0), ["Mul", "Add"]),
    "columns": (Affine.of([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 2.0, 1.0], 2), ["Mul", "Add"]),
    "several axes": (GRID, ["Mul", "Add"]),
    "several axes from the second on": (
        Affine.over((1, 2), RANDOM.normal(size=(3, 4)), RANDOM.normal(size=(3, 4))), ["Mul", "Add"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("affine", "kinds"), FORMS.values(), ids=FORMS)
def test_a_form_computes_its_affine(affine, kinds):
    form = cheapest_form(graph_of(SIZES), "x", affine, FLOAT)
    assert not isinstance(form, Refusal)
    assert [new.type for new in form] == kinds
    net = Net()
    y = x = net.input(*SIZES, name="x")
    for new in form:
        params = [part for part in new.inputs if isinstance(part, Param)]
        assert new.inputs[0] == DATA
        assert all(param.dtype == FLOAT for param in params)
        y = net.op(new.type, y, *(net.const(param.array(), param.name) for param in params), **new.attributes)
    values = RANDOM.normal(size=SIZES).astype(FLOAT)
    (actual,) = run(net.build(net.op("Identity", y)), {x: values})
    scale, shift = affine.broadcastable(len(SIZES))
    np.testing.assert_allclose(actual, scale * values + shift, rtol=1e-6, atol=1e-6)


def test_constants_have_no_more_axes_than_they_need():
    form = cheapest_form(graph_of(SIZES), "x", Affine.of(SCALE, NO_SHIFT, 1), FLOAT)
    assert not isinstance(form, Refusal)
    (new,) = form
    assert isinstance(new.inputs[1], Param)
    assert new.inputs[1].shape == (3, 1)


def test_there_is_no_batchnorm_of_bfloat16():
    form = cheapest_form(graph_of(SIZES), "x", Affine.of(SCALE, SHIFT, 1), BFLOAT16)
    assert not isinstance(form, Refusal)
    assert [new.type for new in form] == ["Mul", "Add"]


def test_a_number_needs_no_rank():
    assert not isinstance(cheapest_form(graph_of(None), "x", Affine.of(2.0, 1.0, None), FLOAT), Refusal)
    refusal = cheapest_form(graph_of(None), "x", Affine.of(SCALE, NO_SHIFT, 1), FLOAT)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unknown-rank"


@pytest.mark.parametrize(("opset", "refused"), [(6, True), (7, False)])
def test_constants_are_broadcast_by_other_rules_before_opset_7(opset, refused):
    form = cheapest_form(graph_of(SIZES, opset=opset), "x", Affine.of(2.0, 0.0, None), FLOAT)
    assert isinstance(form, Refusal) == refused
    assert not isinstance(form, Refusal) or form.code == "old-opset"


@pytest.mark.parametrize(
    ("dialect", "tensors", "sign", "kind"),
    [
        (ONNX, "ab", 1.0, "Add"),
        (ONNX, "abc", 1.0, "Sum"),
        (ONNX, "ab", -1.0, "Sub"),
        (KERAS, "ab", 1.0, "Add"),
        (KERAS, "abc", 1.0, "Add"),
        (KERAS, "ab", -1.0, "Subtract"),
    ],
)
def test_which_operator_adds(dialect, tensors, sign, kind):
    new = dialect.sum(tensors, sign)
    assert (new.type, new.inputs) == (kind, tuple(tensors))
    assert new.domain == ("keras" if dialect is KERAS else "")


@pytest.mark.parametrize(
    ("dialect", "tensor", "rank", "addable"),
    [
        (ONNX, "x", 3, True),
        (ONNX, "x", 4, True),
        (ONNX, "constant", 3, True),
        (KERAS, "x", 3, True),
        (KERAS, "x", 4, False),
        (KERAS, "constant", 3, False),
    ],
)
def test_keras_adds_neither_constants_nor_tensors_of_another_rank(dialect, tensor, rank, addable):
    graph = graph_of(SIZES, dialect=dialect)
    graph.params["constant"] = Param.of("constant", np.ones(SIZES, np.float32))
    assert dialect.can_add(graph, tensor, rank) == addable


def test_a_subgraph_speaks_the_dialect_of_the_graph_around_it():
    outer = ModelGraph(dialect=KERAS)
    assert dialect_of(ModelGraph(parent=outer)) is KERAS
    assert dialect_of(outer.copy()) is KERAS
    with pytest.raises(AssertionError, match="gives it its dialect"):
        dialect_of(ModelGraph())


# -- convolutions in Keras ---------------------------------------------------------------------------


LAYERS = {
    "valid": ({}, "valid"),
    "same": ({"begins": (1, 1), "ends": (1, 1)}, "same"),
    "even same": ({"shape": (4, 4, 2, 2), "ends": (1, 1)}, "same"),
    "same of dilated taps": ({"dilations": (2, 2), "begins": (2, 2), "ends": (2, 2)}, "same"),
    "same with a stride": ({"strides": (2, 2), "begins": (0, 1), "ends": (1, 1), "sizes": (8, 7)}, "same"),
    "more zeros than the stride reaches": (
        {"strides": (2, 2), "begins": (0, 0), "ends": (2, 1), "sizes": (8, 8)}, "same",
    ),
    "a stride over an open size": ({"strides": (2, 2), "begins": (0, 0), "ends": (1, 1)}, None),
    "begins elsewhere": ({"begins": (2, 1), "ends": (0, 1)}, None),
    "more positions": ({"begins": (1, 1), "ends": (2, 1)}, None),
    "fewer positions": ({"strides": (2, 2), "begins": (0, 0), "ends": (1, 0), "sizes": (8, 8)}, None),
    "even, with the zeros before": ({"shape": (4, 4, 2, 2), "begins": (1, 1)}, None),
    "strides and dilations": ({"strides": (2, 2), "dilations": (2, 2)}, None),
}  # fmt: skip


@pytest.mark.parametrize(("options", "padding"), LAYERS.values(), ids=LAYERS)
def test_what_keras_calls_the_padding(options, padding):
    conv = convolution(**{"shape": (4, 4, 3, 3), **options})
    new = KERAS.convolution("x", replace(conv, channel_axis=3), "made")
    assert (None if new is None else new.attributes["padding"]) == padding


@pytest.mark.parametrize(
    ("shape", "groups", "kind"),
    [
        ((4, 4, 3, 3), 1, "Conv2D"),
        ((4, 2, 3, 3), 2, "Conv2D"),
        ((8, 1, 3, 3), 4, "DepthwiseConv2D"),
        ((4, 1, 3), 4, "DepthwiseConv1D"),
        ((4, 1, 3, 3, 3), 4, "Conv3D"),
        ((4, 1, 3, 3), 1, "Conv2D"),
    ],
)
def test_which_layer_keras_has_for_it(shape, groups, kind):
    new = KERAS.convolution("x", replace(convolution(shape, groups=groups), channel_axis=len(shape) - 1), "made")
    assert new is not None
    assert new.type == kind
