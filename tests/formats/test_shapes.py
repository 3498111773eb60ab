"""Shapes that are not in the file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes
from onnx_models import conv_bn, graph, model, run, value

from bnfold.formats import load
from bnfold.formats.onnx import shapes
from bnfold.graph import Op, walk

X, FLAG = value("x", ["N", 4]), value("flag", [], TensorProto.BOOL)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def test_shapes_are_inferred_on_the_first_need():
    read = load(conv_bn()).graph
    assert "conv_out" not in read.known_tensors()
    assert read.tensor("conv_out").shape == ("N", 16, 8, 8)
    assert read.tensor("conv_out").dtype == np.float32
    assert read.rank("bn_out") == 4
    assert read.dim("bn_out", 1) == 16
    assert read.dim("bn_out", 0) is None


def test_shapes_follow_computed_sizes():
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("Relu", ["r"], ["y"]),
    ]
    params = {"zero": np.array([0]), "rest": np.array([2, 2])}
    read = load(model(nodes, [X], [value("y", [None] * 3)], params)).graph
    assert read.tensor("r").shape == ("N", 2, 2)


@pytest.mark.parametrize("height", [8, "H"])
def test_sizes_that_are_computed_from_known_ones_are_known(height):
    """A part of a shape of which another part is fed: half the height of an image of a fixed height."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Gather", ["shape", "one"], ["height"]),
        node("Mul", ["height", "three"], ["rows"]),
        node("Div", ["rows", "two"], ["half"]),
        node("Concat", ["batch", "half", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("Relu", ["r"], ["y"]),
    ]
    params = {name: np.array([number]) for name, number in [("zero", 0), ("one", 1), ("two", 2), ("three", 3)]}
    params["rest"] = np.array([4, -1])
    read = load(model(nodes, [value("x", ["N", height, 4])], [value("y", [None] * 4)], params)).graph
    assert read.dim("r", 1) == (12 if height == 8 else None)
    assert read.tensor("r").shape[2] == 4


def test_bounds_that_operators_compute_from_constants_are_seen():
    nodes = [
        node("Unsqueeze", ["two", "zero"], ["end"]),
        node("Slice", ["x", "zero", "end", "one"], ["front"]),
        node("Concat", ["front", "x"], ["joined"], axis=1),
        node("Relu", ["joined"], ["end_"]),
        node("Relu", ["end_"], ["y"]),
    ]
    params = {"two": np.array(2), "zero": np.array([0]), "one": np.array([1])}
    read = load(model(nodes, [X], [value("y", [None] * 2)], params)).graph
    assert read.tensor("front").shape == ("N", 2)
    assert read.tensor("joined").shape == read.tensor("end_").shape == ("N", 6)
    assert "end__" not in read.known_tensors()


def test_a_constant_above_the_threshold_keeps_its_shape():
    big = numpy_helper.from_array(np.ones((40, 50), np.float32))
    nodes = [node("Constant", [], ["c"], value=big), node("MatMul", ["x", "c"], ["m"]), node("Relu", ["m"], ["y"])]
    read = load(model(nodes, [value("x", ["N", 40])], [value("y", [None, None])])).graph
    assert read.tensor("m").shape == ("N", 50)


def test_what_is_declared_comes_first():
    proto = conv_bn()
    proto.graph.value_info.append(value("conv_out", ["batch", 16, "height", "width"]))
    assert load(proto).graph.tensor("conv_out").shape == ("batch", 16, "height", "width")


def test_an_unknown_operator_leaves_the_rest_known():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    nodes = [
        node("Anything", ["x"], ["a"], domain="acme"),
        node("Relu", ["a"], ["b"]),
        node("Relu", ["x"], ["c"]),
        node("Add", ["b", "c"], ["y"]),
    ]
    read = load(model(nodes, [X], [value("y", [None, None])], opset_imports=opsets)).graph
    assert read.tensor("b").shape is None
    assert read.tensor("c").shape == ("N", 4)


def test_a_model_that_inference_rejects_is_merely_unknown():
    nodes = [node("Reshape", ["x", "shape"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    params = {"shape": np.array([3, 3]), "w": np.ones((5, 7), np.float32)}
    read = load(model(nodes, [value("x", [4, 4])], [value("y", ["a", "b"])], params)).graph
    assert read.tensor("nowhere").shape is None


def conditional() -> ModelProto:
    inner = graph(
        [node("Add", ["outer", "m"], ["i"]), node("Concat", ["i", "i"], ["inner_y"], axis=1)],
        [],
        [value("inner_y", None)],
    )
    then = graph(
        [
            node("MatMul", ["outer", "w"], ["m"]),
            node("If", ["flag"], ["d"], name="inner", then_branch=inner, else_branch=inner),
            node("Relu", ["d"], ["then_y"]),
        ],
        [],
        [value("then_y", None)],
        {"w": np.ones((4, 4), np.float32)},
    )
    other = graph([node("Concat", ["x", "x"], ["else_y"], axis=1)], [], [value("else_y", None)])
    nodes = [
        node("Exp", ["x"], ["outer"]),
        node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other),
    ]
    return model(nodes, [X, FLAG], [value("y", [None, None])])


def test_tensors_inside_subgraphs():
    read = load(conditional()).graph
    then = read.op("if").subgraphs["then_branch"]
    inner = then.op("inner").subgraphs["then_branch"]
    assert inner.tensor("i").shape == ("N", 4)
    assert inner.tensor("inner_y").shape == ("N", 8)
    assert inner.tensor("m").shape == ("N", 4)  # of the graph around it
    assert then.tensor("m").shape == ("N", 4)
    assert then.tensor("then_y").shape == ("N", 8)
    assert then.tensor("outer").shape == ("N", 4)
    assert len(list(walk(read))) == 5


def test_the_body_of_a_loop():
    body = graph(
        [node("MatMul", ["state", "w"], ["m"]), node("Relu", ["m"], ["next"]), node("Identity", ["going"], ["still"])],
        [value("i", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("state", ["N", 4])],
        [value("still", [], TensorProto.BOOL), value("next", ["N", 4])],
    )
    loop = node("Loop", ["times", "", "x"], ["y"], name="loop", body=body)
    params = {"times": np.int64(3), "w": np.ones((4, 4), np.float32)}
    read = load(model([loop], [X], [value("y", [None, None])], params)).graph
    assert read.op("loop").subgraphs["body"].tensor("m").shape == ("N", 4)


def test_functions_are_looked_into():
    opset = helper.make_opsetid("", 17)
    function = helper.make_function(
        "local", "double", ["a"], ["b"], [node("Concat", ["a", "a"], ["b"], axis=1)], [opset]
    )
    nodes = [node("double", ["x"], ["d"], domain="local"), node("Relu", ["d"], ["y"])]
    proto = model(nodes, [X], [value("y", [None, None])], opset_imports=[opset, helper.make_opsetid("local", 1)])
    proto.functions.append(function)
    assert load(proto).graph.tensor("d").shape == ("N", 8)


def by_onnx(proto: ModelProto) -> dict[str, list[int | str]]:
    """The shapes that onnx's inference tells from the whole model."""
    found = infer_shapes(proto, data_prop=True).graph
    types = {entry.name: entry.type.tensor_type for entry in (*found.value_info, *found.output)}
    return {name: [dim.dim_value or dim.dim_param for dim in kind.shape.dim] for name, kind in types.items()}


def shapes_read(proto: ModelProto, names: Iterable[str]) -> dict[str, list[int | str]]:
    graph = load(proto).graph
    return {name: list(graph.tensor(name).shape) for name in names}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_shapes_do_not_follow_from_the_statistics_of_a_bn_unless_others_read_them(training, shared):
    image = value("image", ["N", 3, "H", "W"])
    outputs = ["n", "new_mean", "new_variance"] if training else ["n"]
    nodes = [
        node("Conv", ["image", "weight"], ["c"]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], outputs, training_mode=int(training)),
        node("GlobalAveragePool", ["n"], ["pooled"]),
        node("Flatten", ["pooled"], ["p"]),
        node("Add", ["row", "beta" if shared else "other"], ["sum"]),
        node("Relu", ["sum"], ["y"]),
    ]
    if training:
        nodes.append(node("Relu", ["new_mean"], ["m"]))
    vectors = {name: np.ones(5, np.float32) for name in ("gamma", "beta", "mean", "variance", "other")}
    params = {"weight": np.ones((5, 3, 1, 1), np.float32), **vectors}
    inputs, results = [image, value("row", ["N", 1])], [value("y", [None, None]), value("p", [None, None])]
    proto = model(nodes, inputs, results, params)
    names = ["c", "n", "pooled", "sum", *(["new_mean", "m"] if training else [])]
    expected = by_onnx(proto)
    assert shapes_read(proto, names) == {name: expected[name] for name in names}
    assert expected["sum"] == ["N", 5]
    if training:
        assert load(proto).graph.tensor("m").dtype == np.float32


def test_a_shape_is_followed_where_nothing_else_is_computed_with():
    nodes = [node("Shape", ["x"], ["s"]), node("Expand", ["one", "s"], ["e"]), node("Relu", ["e"], ["y"])]
    proto = model(nodes, [X], [value("y", [None, None])], {"one": np.ones(1, np.float32)})
    assert shapes_read(proto, ["e"])["e"] == by_onnx(proto)["e"] == ["N", 4]


@pytest.mark.parametrize("first", [True, False])
def test_a_changed_graph_is_inferred_as_it_is(first):
    read = load(conv_bn()).graph
    if first:
        read.tensor("conv_out")
    changed = read.copy()
    changed.put(Op("shrink", "GlobalAveragePool", ("conv_out",), ("pooled",)))
    # A copy knows what was known; what is new is inferred where nothing had been.
    assert changed.tensor("conv_out").shape == ("N", 16, 8, 8)
    assert changed.tensor("pooled").shape == (None if first else ("N", 16, 1, 1))


@pytest.mark.parametrize("within", [False, True])
def test_values_that_grow_without_end_are_not_propagated(within):
    """Left alone, inference would compute all 4 EB of the last one."""
    nodes = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(50)]
    nodes += [node("ReduceMax", ["c50"], ["one"], keepdims=0), node("Add", ["x", "one"], ["z"])]
    if within:
        body = helper.make_graph(nodes, "body", [], [value("z", ["N", 4])])
        nodes = [node("If", ["flag"], ["y"], then_branch=body, else_branch=body)]
    else:
        nodes.append(node("Relu", ["z"], ["y"]))
    read = load(model(nodes, [X, FLAG], [value("y", ["N", 4])], {"c0": np.ones(1000, np.float32)})).graph
    assert all(inner.tensor("z").shape in (("N", 4), None) for inner in walk(read))


@pytest.mark.parametrize(("kind", "known"), [("Conv", True), ("Add", False)])
def test_what_inference_does_not_compute_with_does_not_grow(kind, known, monkeypatch):
    """A Concat of what a Conv with many weights puts out is joined at run time alone; one of a sum may be values."""
    monkeypatch.setattr(shapes, "MAX_VALUES", 200)
    nodes = [
        node(kind, ["x", "w"], ["c"]),
        node("Concat", ["c", "c"], ["joined"], axis=1),
        node("Shape", ["joined"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Reshape", ["joined", "target"], ["r"]),
        node("Relu", ["r"], ["y"]),
    ]
    weight = np.ones((16, 16, 3, 3) if kind == "Conv" else (16, 3, 3), np.float32)
    params = {"w": weight, "zero": np.array([0]), "rest": np.array([32, -1])}
    x = value("x", ["N", 16, 3, 3])
    read = load(model(nodes, [x], [value("y", [None] * 3)], params)).graph
    assert (read.dim("r", 1) == 32) == known


def test_sizes_that_follow_from_sizes_that_follow_are_known():
    """Half the height, and half of that, of images of which only the first inference tells the height."""
    nodes, x = [], "x"
    for index in range(2):
        nodes += [
            node("Relu", [x], [f"a{index}"]),
            node("Shape", [f"a{index}"], [f"shape{index}"]),
            node("Gather", [f"shape{index}", "zero"], [f"batch{index}"]),
            node("Gather", [f"shape{index}", "one"], [f"height{index}"]),
            node("Div", [f"height{index}", "two"], [f"half{index}"]),
            node("Concat", [f"batch{index}", f"half{index}", "rest"], [f"target{index}"], axis=0),
            node("Reshape", [f"a{index}", f"target{index}"], [f"r{index}"]),
        ]
        x = f"r{index}"
    params = {name: np.array([number]) for name, number in [("zero", 0), ("one", 1), ("two", 2), ("rest", -1)]}
    read = load(model(nodes, [value("x", ["N", 16, 3])], [value("r1", [None] * 3)], params)).graph
    assert read.tensor("r0").shape[:2] == ("N", 8)
    assert read.constant("half1").array().tolist() == [4]


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_axes_that_count_from_the_right_where_the_standard_had_none(opset):
    """onnxruntime takes them in every opset; what onnx infers before opset 11 is wrong."""
    nodes = [
        helper.make_node("Squeeze", ["x"], ["a"], axes=[-2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Unsqueeze", ["b"], ["c"], axes=[-1, 0]),
        helper.make_node("Squeeze", ["c"], ["d"], axes=[-5]),
        helper.make_node("Sigmoid", ["d"], ["y"]),
    ]
    proto = model(nodes, [value("x", [2, 3, 1, 4])], [value("y", ["i", "j", "k", "l"])], opset=opset, ir_version=4)
    graph = load(proto).graph
    shape = run(proto, {"x": np.zeros((2, 3, 1, 4), np.float32)})[0].shape
    assert [graph.tensor(name).shape for name in "abcd"] == [(2, 3, 4), (2, 3, 4), (1, 2, 3, 4, 1), shape]


def test_an_axis_that_counts_from_the_right_of_an_unknown_rank_leaves_the_rest_unknown():
    nodes = [
        helper.make_node("Reshape", ["x", "size"], ["r"]),
        helper.make_node("Squeeze", ["r"], ["a"], axes=[-1]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    inputs = [value("x", [4]), value("size", ["R"], TensorProto.INT64)]
    graph = load(model(nodes, inputs, [value("y", ["n"])], opset=9, ir_version=4)).graph
    assert graph.tensor("a").shape is None
