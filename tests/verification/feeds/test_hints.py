"""What a graph demands of its inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from verification_models import model

from bnfold.verification.feeds.hints import Hint, Tracer

INT = TensorProto.INT64


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def hint(nodes, weights=None, shape=("N",), integer=True, **options):
    proto = model(nodes, {"x": shape}, ["y"], weights, types={"x": INT} if integer else {}, **options)
    return Tracer(proto).hint("x")


TABLE = {"w": np.zeros((7, 3), np.float32)}


@pytest.mark.parametrize(
    ("nodes", "bound"),
    [
        ([node("Gather", ["w", "x"], ["y"])], 7),
        ([node("Gather", ["w", "x"], ["y"], axis=1)], 3),
        ([node("Gather", ["w", "x"], ["y"], axis=-1)], 3),
        ([node("Gather", ["w", "x"], ["a"]), node("Gather", ["w", "x"], ["y"], axis=1)], 3),
        ([node("GatherElements", ["w", "x"], ["y"], axis=1)], 3),
        ([node("GatherND", ["w", "x"], ["y"])], 3),
        (
            [
                node("Cast", ["x"], ["c"], to=INT),
                node("Unsqueeze", ["c", "a"], ["u"]),
                node("Gather", ["w", "u"], ["y"]),
            ],
            7,
        ),
        ([node("Identity", ["w"], ["t"]), node("Gather", ["t", "x"], ["y"])], 7),
        ([node("Reshape", ["x", "s"], ["r"]), node("Concat", ["r", "x"], ["c"]), node("Gather", ["w", "c"], ["y"])], 7),
    ],
)
def test_an_index_stays_below_the_table(nodes, bound):
    found = hint(nodes, TABLE)
    assert (found.role, found.bound) == ("index", bound)


def test_an_index_into_what_is_computed_is_bounded_by_its_known_shape():
    nodes = [node("Relu", ["w"], ["t"]), node("Gather", ["t", "x"], ["y"])]
    assert hint(nodes, TABLE, value_info={"t": [5, 3]}).bound == 5
    assert hint(nodes, TABLE) == Hint("index")


def test_one_hot_is_bounded_by_its_depth():
    nodes = [node("OneHot", ["x", "d", "v"], ["y"])]
    assert hint(nodes, {"d": np.array(5), "v": np.array([0, 1])}).bound == 5
    assert hint(nodes, {"v": np.array([0, 1])}).bound is None


def test_an_embedding_layer_is_bounded_by_its_tables():
    nodes = [
        helper.make_node(
            "EmbedLayerNormalization",
            ["x", "x", "words", "positions", "segments", "g", "b"],
            ["y"],
            domain="com.microsoft",
        )
    ]
    tables = {"words": np.zeros((90, 4)), "positions": np.zeros((9, 4)), "segments": np.zeros((2, 4))}
    assert hint(nodes, tables).bound == 2


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Reshape", ["w", "x"], ["y"])],
        [node("TopK", ["w", "x"], ["y", "i"])],
        [node("Slice", ["w", "x", "x"], ["y"])],
        [node("Range", ["a", "x", "a"], ["y"])],
        [node("ReduceSum", ["w", "x"], ["y"])],
        [node("LSTM", ["w", "a", "b", "", "x"], ["y"])],
    ],
)
def test_numbers_that_steer_an_operator_are_controls(nodes):
    assert hint(nodes, TABLE).role == "control"


def test_other_integers_are_values():
    assert hint([node("Add", ["x", "x"], ["y"])]) == Hint("value")


def test_readers_inside_subgraphs_count():
    body = helper.make_graph(
        [node("Gather", ["w", "x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    assert hint([node("If", ["yes"], ["y"], then_branch=body, else_branch=body)], TABLE).bound == 7


@pytest.mark.parametrize(
    ("nodes", "weight", "rank", "dims"),
    [
        ([node("Conv", ["x", "w"], ["y"], group=2)], (4, 3, 3, 3), 4, {1: 6}),
        ([node("ConvTranspose", ["x", "w"], ["y"])], (4, 3, 3), 3, {1: 4}),
        ([node("Gemm", ["x", "w"], ["y"])], (5, 3), 2, {1: 5}),
        ([node("Gemm", ["x", "w"], ["y"], transB=1)], (5, 3), 2, {1: 3}),
        ([node("Gemm", ["x", "w"], ["y"], transA=1)], (5, 3), 2, {0: 5}),
        ([node("MatMul", ["x", "w"], ["y"])], (5, 3), None, {-1: 5}),
        ([node("LSTM", ["x", "w", "w"], ["y"])], (1, 12, 4), 3, {2: 4}),
        ([node("BatchNormalization", ["x", "w", "w", "w", "w"], ["y"])], (9,), None, {1: 9}),
        ([node("Relu", ["x"], ["r"]), node("Conv", ["r", "w"], ["y"])], (4, 3, 1, 1), 4, {1: 3}),
        ([node("Transpose", ["x"], ["r"]), node("Conv", ["r", "w"], ["y"])], (4, 3, 1, 1), None, {}),
        ([node("Relu", ["x"], ["y"])], (4,), None, {}),
    ],
)
def test_weights_fix_rank_and_sizes(nodes, weight, rank, dims):
    found = hint(nodes, {"w": np.zeros(weight, np.float32)}, None, integer=False)
    assert (found.rank, found.dims) == (rank, dims)
