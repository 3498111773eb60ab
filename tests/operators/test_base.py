"""What the facts of all operators stand on: nodes, the registry, shapes that nobody inferred, fitting vectors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net

from bnfold.affine import Affine
from bnfold.formats import load
from bnfold.graph import ModelGraph, Op, Param, Tensor, Use
from bnfold.operators import (
    Facts,
    Node,
    Role,
    dim_of,
    facts_of,
    known_types,
    linear_bias,
    rank_of,
    role,
    value_readers,
)
from bnfold.operators.base import channels_fit, vectors
from bnfold.operators.keras import KERAS
from bnfold.operators.onnx import ONNX
from bnfold.operators.weights import mapped
from bnfold.refusal import Refusal

C = 4


def graph_of(
    *ops: Op, params: dict[str, np.ndarray] | None = None, shapes: dict[str, tuple] | None = None
) -> ModelGraph:
    """Operators without any inference: of shapes is known what ``shapes`` says."""
    graph = ModelGraph(dialect=ONNX, opsets={"": 17})
    graph.params.update({name: Param.of(name, values) for name, values in (params or {}).items()})
    for op in ops:
        graph.put(op)
    for name, shape in (shapes or {}).items():
        graph.declare(Tensor(name, np.dtype(np.float32), shape))
    return graph


# -- nodes -------------------------------------------------------------------------------------------


def test_a_list_of_integers_comes_from_the_attribute_or_from_a_constant():
    op = Op("one", "Own", ("x", "axes", "scalar", ""), ("y",), {"steps": [3, 4]})
    node = Node(graph_of(op, params={"axes": np.array([[1, 2]]), "scalar": np.array(5)}), op)
    assert node.const_ints(1) == [1, 2]
    assert node.const_ints(1, "other") == [1, 2]
    assert node.const_ints(1, "steps") == [3, 4]
    assert node.const_ints(2) == [5]
    assert node.const_ints(0) is None
    assert node.const_ints(3) is None
    assert node.const_ints(9) is None


def test_an_output_is_used_if_somebody_reads_it_or_the_model_puts_it_out():
    op = Op("one", "Own", ("x",), ("read", "put", "unread", ""))
    graph = graph_of(op, Op("two", "Relu", ("read",), ("z",)))
    graph.outputs = ["put"]
    assert [Node(graph, op).used(index) for index in range(5)] == [True, True, False, False, False]


@pytest.mark.parametrize(("value", "text"), [(b"same", "same"), ("same", "same"), (None, "none")])
def test_an_attribute_of_text(value, text):
    op = Op("one", "Own", (), ("y",), {} if value is None else {"mode": value})
    assert Node(graph_of(op), op).text("mode", "none") == text


# -- the registry ------------------------------------------------------------------------------------


def test_an_unknown_operator_refuses_everything():
    op = Op("one", "Own", ("x",), ("y",), domain="custom")
    facts, node, affine = facts_of(op), Node(graph_of(op), op), Affine.of(2.0, 0.0, None)
    answers = [
        facts.as_affine(node),
        facts.absorb_output(node, affine),
        facts.absorb_input(node, {0: affine}),
        facts.lift(node, {0: affine}),
        facts.sink(node, {0: affine}),
    ]
    assert all(isinstance(answer, Refusal) for answer in answers)
    assert not facts.is_identity(node)
    assert not facts.grids
    assert facts.role is Role.OTHER
    assert facts.reads_values(0)
    assert facts.data_slot(node) == 0


@pytest.mark.parametrize(
    ("domain", "kind", "known"),
    [
        ("", "Relu", True),
        ("ai.onnx", "Relu", True),
        ("custom", "Relu", False),
        ("keras", "Conv2D", True),
        ("", "Conv2D", False),
    ],
)
def test_facts_are_those_of_the_domain(domain, kind, known):
    assert (type(facts_of(Op("one", kind, (), ("y",), domain=domain))) is not Facts) == known


def test_the_known_types_of_a_domain():
    assert "BatchNormalization" in known_types()
    assert "Conv2D" not in known_types()
    assert "Conv2D" in known_types(KERAS.domain)
    assert not known_types("custom")


# -- shapes that nobody inferred ---------------------------------------------------------------------

CONV = Op("conv", "Conv", ("x", "w"), ("c",))
BATCHNORM = Op("bn", "BatchNormalization", ("c", *"abmv"), ("n",))
WEIGHTS = {"w": np.ones((C, 3, 1, 1), np.float32)} | {name: np.ones(C, np.float32) for name in "abmv"}


def test_weights_tell_rank_and_channels():
    graph = graph_of(CONV, BATCHNORM, Op("relu", "Relu", ("n",), ("r",)), params=WEIGHTS)
    for tensor in "cnr":
        assert rank_of(graph, tensor) == 4
        assert [dim_of(graph, tensor, axis) for axis in (0, 1, 2)] == [None, C, None]


def test_statistics_tell_channels_but_no_rank():
    graph = graph_of(BATCHNORM, params=WEIGHTS)
    assert rank_of(graph, "n") is None
    assert dim_of(graph, "n", 1) == C


def test_a_declared_shape_is_believed_and_completed():
    graph = graph_of(CONV, BATCHNORM, params=WEIGHTS, shapes={"c": (2, None, 5, "W"), "n": (2, None, 5, "W")})
    assert rank_of(graph, "n") == 4
    assert [dim_of(graph, "n", axis) for axis in range(5)] == [2, C, 5, None, None]
    beside = graph_of(BATCHNORM, params=WEIGHTS, shapes={"c": (2, "C", 5)})
    assert rank_of(beside, "n") == 3
    assert [dim_of(beside, "n", axis) for axis in range(3)] == [2, C, 5]


@pytest.mark.parametrize(
    "op",
    [
        Op("pool", "MaxPool", ("c",), ("p",)),
        Op("drop", "Dropout", ("c",), ("d", "p")),
        Op("own", "Own", ("c",), ("p",)),
    ],
    ids=lambda op: op.type,
)
def test_other_operators_and_further_outputs_hide_the_shape(op):
    graph = graph_of(CONV, op, params=WEIGHTS)
    assert rank_of(graph, "p") is None
    assert dim_of(graph, "p", 1) is None


def test_of_the_models_input_nothing_is_known_that_is_not_declared():
    assert rank_of(graph_of(CONV, params=WEIGHTS), "x") is None
    assert dim_of(graph_of(CONV, params=WEIGHTS, shapes={"x": (1, 3)}), "x", 1) == 3


# -- fitting vectors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("affine", "axis", "code"),
    [
        (Affine.of(2.0, 1.0, None), None, None),
        (Affine.of(np.ones(C), 1.0, 1), 1, None),
        (Affine.of(np.ones(C), 1.0, 1), None, "unknown-rank"),
        (Affine.of(np.ones(C), 1.0, 1), 2, "other-axis"),
        (Affine.of(np.ones(C - 1), 1.0, 1), 1, "size-mismatch"),
    ],
)
def test_an_affine_fits_on_its_axis_with_its_channels(affine, axis, code):
    refusal = channels_fit(Node(graph_of(CONV), CONV), affine, axis, C)
    assert (None if refusal is None else refusal.code) == code


def test_a_uniform_affine_is_repeated_for_every_channel():
    scale, shift = vectors(Affine.of(2.0, 1.0, None), C)
    assert (scale.tolist(), shift.tolist()) == ([2.0] * C, [1.0] * C)
    assert vectors(Affine.of(np.arange(C), 1.0, 1), C)[0].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(("axis", "size"), [(None, 1), (0, 2), (1, 3)])
def test_a_constant_takes_an_affine(axis, size):
    values = np.arange(6.0).reshape(2, 3)
    scale, shift = np.arange(1.0, size + 1), np.arange(size) - 0.5
    new = mapped(Param.of("w", values), Affine.of(scale, shift, axis))
    shape = [size if place == axis else 1 for place in range(2)]
    assert new is not None
    np.testing.assert_array_equal(new.array(), values * scale.reshape(shape) + shift.reshape(shape))


@pytest.mark.parametrize(("axis", "size"), [(0, 3), (1, 2), (2, 2), (3, 2)])
def test_a_constant_that_is_broadcast_along_the_axis_takes_none(axis, size):
    assert mapped(Param.of("w", np.ones((2, 3))), Affine.of(np.arange(size), 0.0, axis)) is None


@pytest.mark.parametrize(("scale", "shift", "steps"), [(2.0, 0.0, 1), (1.0, 3.0, 1), (2.0, 3.0, 2), (1.0, 0.0, 0)])
def test_a_constant_is_not_changed_in_vain(scale, shift, steps):
    param = Param.of("w", np.ones((2, 3)))
    new = mapped(param, Affine.of(scale, shift, None))
    assert new is not None
    assert len(getattr(new.data, "steps", ())) == steps


# -- questions about operators in a graph ------------------------------------------------------------


def test_the_role_of_a_batch_normalization_does_not_depend_on_its_numbers():
    net = Net()
    net.bn(net.input("N", C), C, name="bn")
    graph = load(net.build(net.nodes[-1].output[0])).graph
    assert role(graph.op("bn"), graph) is Role.BATCHNORM


def test_who_reads_the_values_of_a_tensor():
    graph = graph_of(
        Op("reads", "Relu", ("x",), ("a",)),
        Op("asks", "Shape", ("x",), ("b",)),
        Op("body", "Shape", ("y",), ("c",), captures=("x",)),
    )
    assert list(value_readers(graph, "x")) == [Use("reads", 0), Use("body", None)]


def test_the_bias_of_a_linear_operator():
    biased = Op("biased", "Conv", ("x", "w", "a"), ("y",))
    graph = graph_of(biased, CONV, BATCHNORM, Op("dynamic", "Conv", ("x", "n"), ("z",)), params=WEIGHTS)
    assert linear_bias(graph, biased) is graph.params["a"]
    assert linear_bias(graph, CONV) is None
    assert linear_bias(graph, BATCHNORM) is None
