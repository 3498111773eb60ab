"""Values of operators on constants, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import ints
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import conv_bn, graph, model, run, value

from bnfold.formats import load
from bnfold.formats.onnx import evaluate
from bnfold.operators.onnx import constants

F32 = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
POSITIVE = np.abs(F32) + np.float32(0.1)
I64 = np.arange(-6, 6).reshape(3, 4)
BOOL = I64 % 3 == 0


def on_constants(kind: str, arrays: list[np.ndarray | None], opset: int, outputs: int = 1, **attributes) -> ModelProto:
    names = ["" if array is None else f"c{slot}" for slot, array in enumerate(arrays)]
    results = [f"y{slot}" for slot in range(outputs)]
    node = helper.make_node(kind, names, results, **attributes)
    params = {name: array for name, array in zip(names, arrays, strict=True) if name}
    proto = model([node], [], [onnx.ValueInfoProto(name=name) for name in results], params, opset=opset)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    del proto.graph.output[:]
    proto.graph.output.extend(inferred.graph.output)
    return proto


CASES = [
    ("Abs", [F32], {}),
    ("Add", [F32, F32[0]], {}),
    ("Add", [I64, I64[:1]], {}),
    ("And", [BOOL, BOOL[0]], {}),
    ("Cast", [F32], {"to": TensorProto.FLOAT16}),
    ("Cast", [F32], {"to": TensorProto.DOUBLE}),
    ("Cast", [F32], {"to": TensorProto.INT32}),
    ("Cast", [I64], {"to": TensorProto.FLOAT}),
    ("Cast", [BOOL], {"to": TensorProto.FLOAT}),
    ("CastLike", [F32, I64], {}),
    ("CastLike", [I64, F32.astype(np.float16)], {}),
    ("Ceil", [F32], {}),
    ("Clip", [F32, np.float32(-0.5), np.float32(0.75)], {}),
    ("Clip", [F32, None, np.float32(0.75)], {}),
    ("Clip", [F32], {}),
    ("Concat", [F32, F32[:, :1], F32], {"axis": 1}),
    ("Concat", [F32, F32], {"axis": -1}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([7], np.int64))}),
    ("ConstantOfShape", [ints(4)], {}),
    ("Div", [F32, POSITIVE], {}),
    ("Div", [np.abs(I64), ints(3)], {}),
    ("CumSum", [F32, np.array(1)], {}),
    ("CumSum", [F32, np.array(-1)], {"exclusive": 1, "reverse": 1}),
    ("Equal", [I64, ints(2)], {}),
    ("Erf", [F32], {}),
    ("Exp", [F32], {}),
    ("Expand", [F32[:, :1], ints(2, 1, 4, 5)], {}),
    ("Flatten", [F32], {"axis": 2}),
    ("Flatten", [F32], {"axis": -1}),
    ("Flatten", [F32], {}),
    ("Floor", [F32], {}),
    ("Gather", [F32, ints(2, -1)], {}),
    ("Gather", [F32, np.array([[0, 3]], np.int32)], {"axis": 1}),
    ("Gather", [I64[0], np.array(2)], {}),
    ("Greater", [F32, F32[0]], {}),
    ("GreaterOrEqual", [I64, I64[0]], {}),
    ("Identity", [F32], {}),
    ("Less", [F32, F32[0]], {}),
    ("LessOrEqual", [I64, I64[0]], {}),
    ("Log", [POSITIVE], {}),
    ("MatMul", [F32, F32[0].T.copy()], {}),
    ("MatMul", [F32[0, 0], F32[0].T.copy()], {}),
    ("MatMul", [F32, F32[0, 0]], {}),
    ("Max", [F32, F32[0], F32[:, :1]], {}),
    ("Mean", [F32, F32[0]], {}),
    ("Min", [F32, F32[0]], {}),
    ("Mul", [F32, F32[:1]], {}),
    ("Neg", [F32], {}),
    ("Not", [BOOL], {}),
    ("Or", [BOOL, BOOL[0]], {}),
    ("Pow", [POSITIVE, np.float32(0.5)], {}),
    ("Pow", [F32, np.float32(2)], {}),
    ("Range", [np.float32(0), np.float32(1), np.float32(0.25)], {}),
    ("Range", [np.int64(5), np.int64(-3), np.int64(-2)], {}),
    ("Range", [np.int64(5), np.int64(9), np.int64(-2)], {}),
    ("Reciprocal", [F32], {}),
    *((f"Reduce{kind}", [F32], {"axes": [1, 2]}) for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "SumSquare")),
    ("ReduceL2", [F32], {"axes": [-1], "keepdims": 0}),
    ("ReduceMean", [F32], {}),
    ("ReduceSum", [F32, ints(0, 2)], {"keepdims": 0}),
    ("ReduceSum", [F32], {}),
    ("ReduceSum", [F32], {"noop_with_empty_axes": 1}),
    ("Relu", [F32], {}),
    ("Reshape", [F32, ints(4, -1)], {}),
    ("Reshape", [F32, ints(0, 0, 5, 1)], {}),
    ("Round", [np.array([0.5, 1.5, -0.5, -2.5, 0.3], np.float32)], {}),
    ("Shape", [F32], {}),
    ("Shape", [F32], {"start": 1}),
    ("Sigmoid", [F32], {}),
    ("Sign", [F32], {}),
    ("Size", [F32], {}),
    ("Slice", [F32, ints(1, 0), ints(3, 100), ints(0, 2), ints(1, 2)], {}),
    ("Slice", [F32, ints(-1), ints(-4), ints(1), ints(-1)], {}),
    ("Slice", [F32, ints(1), ints(2), None, None], {}),
    ("Sqrt", [POSITIVE], {}),
    ("Squeeze", [F32[:1], ints(0)], {}),
    ("Squeeze", [F32[:1]], {}),
    ("Sub", [F32, F32[0]], {}),
    ("Sum", [F32, F32[0], F32[:, :1]], {}),
    ("Tanh", [F32], {}),
    ("Tile", [F32, ints(1, 2, 3)], {}),
    ("Transpose", [F32], {"perm": [2, 0, 1]}),
    ("Transpose", [F32], {}),
    ("Trilu", [F32], {}),
    ("Trilu", [F32, np.array(-1)], {"upper": 0}),
    ("Unsqueeze", [F32, ints(0, 2)], {}),
    ("Unsqueeze", [F32, ints(-1)], {}),
    ("Where", [BOOL, I64, I64[0]], {}),
]  # fmt: skip


#: The order of additions and the last digit of a function are up to the implementation.
INEXACT = ("CumSum", "Erf", "Exp", "Log", "MatMul", "Pow", "Sigmoid", "Sqrt", "Sum", "Tanh")


@pytest.mark.parametrize(("kind", "arrays", "attributes"), CASES)
def test_equals_onnxruntime(kind, arrays, attributes):
    proto = on_constants(kind, arrays, opset=17, **attributes)
    [expected] = run(proto, {})
    param = load(proto).graph.constant("y0")
    found = param.array()
    assert (param.dtype, param.shape) == (expected.dtype, expected.shape) == (found.dtype, found.shape)
    if kind in INEXACT or kind.startswith("Reduce"):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 if kind in ("CumSum", "MatMul") else 1e-7)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("kind", "arrays", "attributes", "opset"),
    [
        ("Squeeze", [F32[:1]], {"axes": [0]}, 11),
        ("Unsqueeze", [F32], {"axes": [0, 3]}, 11),
        ("Slice", [F32], {"starts": [1], "ends": [3], "axes": [1]}, 9),
        ("Add", [F32, F32[0]], {}, 7),
        ("Cast", [F32], {"to": TensorProto.INT64}, 9),
        ("Reshape", [F32, ints(5, 12)], {}, 7),
        ("Concat", [F32, F32], {"axis": 0}, 7),
        ("Clip", [F32], {"min": -0.5, "max": 0.5}, 9),
    ],
)
def test_equals_onnxruntime_in_older_opsets(kind, arrays, attributes, opset):
    proto = on_constants(kind, arrays, opset=opset, **attributes)
    [expected] = run(proto, {})
    np.testing.assert_array_equal(load(proto).graph.constant("y0").array(), expected)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_several_outputs(opset):
    attributes = {"split": [1, 3]} if opset < 13 else {}
    inputs = [F32] if opset < 13 else [F32, ints(1, 3)]
    proto = on_constants("Split", inputs, opset=opset, outputs=2, axis=1, **attributes)
    read = load(proto).graph
    for name, expected in zip(("y0", "y1"), run(proto, {}), strict=True):
        np.testing.assert_array_equal(read.constant(name).array(), expected)


def test_every_operator_of_the_table_was_compared():
    assert set(constants.SIZES) == {kind for kind, _, _ in CASES} - {"Identity"} | {"Split"}


@pytest.mark.parametrize("attribute", [
    {"value": numpy_helper.from_array(F32)},
    {"value": numpy_helper.from_array(np.tile(F32, (10, 10, 10)))},
    {"value_float": 2.5},
    {"value_floats": [0.5, 1.5]},
    {"value_int": 3},
    {"value_ints": [1, 2]},
], ids=lambda attribute: next(iter(attribute)))  # fmt: skip
def test_constant_nodes(attribute):
    proto = on_constants("Constant", [], opset=17, **attribute)
    [expected] = run(proto, {})
    param = load(proto).graph.constant("y0")
    assert (param.name, param.dtype, param.shape) == ("y0", expected.dtype, expected.shape)
    np.testing.assert_array_equal(param.array(), expected)


def test_a_large_constant_is_not_copied(tmp_path):
    big = np.ones((300, 300), np.float32)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(big)),
        helper.make_node("Identity", ["c"], ["i"]),
        helper.make_node("Transpose", ["i"], ["t"]),
        helper.make_node("Reshape", ["i", "shape"], ["r"]),
        helper.make_node("Sum", ["t", "r"], ["y"]),
    ]
    proto = model(nodes, [], [value("y", [300, 300])], {"shape": ints(300, 300)})
    onnx.save(proto, tmp_path / "model.onnx")
    read = load(tmp_path / "model.onnx").graph
    for name in ("c", "i", "t", "r"):
        assert not read.constant(name).array().flags.owndata, name
    np.testing.assert_array_equal(read.constant("y").array(), 2 * big)


def test_a_chain_of_constants_is_followed_and_an_input_ends_it():
    nodes = [
        helper.make_node("Sqrt", ["v"], ["root"]),
        helper.make_node("Div", ["g", "root"], ["scale"]),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    four = np.full(4, 4, np.float32)
    read = load(model(nodes, [value("x", [4])], [value("y", [4])], {"v": four, "g": four})).graph
    np.testing.assert_array_equal(read.constant("scale").array(), [2, 2, 2, 2])
    assert read.constant("y") is None
    assert read.constant("x") is None


def test_half_precision_is_computed_as_such():
    third = np.array([1, 2], np.float16) / np.float16(3)
    read = load(on_constants("Mul", [third, third], opset=17)).graph
    assert read.constant("y0").dtype == np.float16
    np.testing.assert_array_equal(read.constant("y0").array(), third * third)


def chain(x: np.ndarray) -> list:
    """1 - sigmoid(x) / 3, in steps."""
    return [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Div", ["s", "three"], ["d"]),
        helper.make_node("Sub", ["one", "d"], ["y"]),
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_chain_is_rounded_once(dtype):
    x = np.linspace(-3, 3, 101).astype(dtype)
    params = {"x": x, "three": np.array(3, dtype), "one": np.array(1, dtype)}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    found = load(model(chain(x), [], [value("y", [101], kind)], params)).graph.constant("y")
    expected = 1 - 1 / (1 + np.exp(-x.astype(np.float64))) / 3
    assert found.dtype == dtype
    np.testing.assert_allclose(found.exact(), expected, rtol=1e-15)
    np.testing.assert_array_equal(found.array(), found.exact().astype(dtype))


def test_where_the_type_decides_it_counts():
    # In float32 the quotient is 3, and 2.9999998 before it is rounded.
    low = np.array([np.nextafter(np.float32(0.3), np.float32(0))])
    params = {"low": low, "tenth": np.array([0.1], np.float32)}
    nodes = [helper.make_node("Div", ["low", "tenth"], ["q"]), helper.make_node("Floor", ["q"], ["y"])]
    proto = model(nodes, [], [value("y", [1])], params)
    [expected] = run(proto, {})
    assert load(proto).graph.constant("y").array() == expected
    half = {"low": np.array([60000], np.float16), "tenth": np.array([0.5], np.float16)}
    proto = model(nodes[:1], [], [value("q", [1], TensorProto.FLOAT16)], half)
    assert np.isinf(load(proto).graph.constant("q").array()), "as the runtime has it"


BOMBS = {
    "Expand": [np.float32(1), ints(1 << 20, 1 << 20)],
    "ConstantOfShape": [ints(1 << 31, 1 << 31)],
    "Range": [np.int64(0), np.int64(1 << 60), np.int64(1)],
    "Tile": [F32, ints(1 << 20, 1 << 20, 1)],
    "Concat": [np.zeros((1 << 21,), np.float64)] * 8,
    "Mul": [np.ones((1 << 14, 1), np.float32), np.ones((1, 1 << 14), np.float32)],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_would_be_too_large_is_no_constant(kind):
    attributes = {"axis": 0} if kind == "Concat" else {}
    assert load(unsaid(kind, BOMBS[kind], **attributes)).graph.constant("y") is None


@pytest.mark.parametrize(("total", "growth", "count"), [(100_000, 0, 4), (0, 16, 8)])
def test_the_sum_of_all_results_is_bounded(monkeypatch, total, growth, count):
    """By a number of bytes, and by a multiple of what the model's own constants take."""
    monkeypatch.setattr(evaluate, "MAX_TOTAL_BYTES", total)
    monkeypatch.setattr(evaluate, "MAX_GROWTH", growth)
    nodes = [helper.make_node("Neg", ["w"], [f"n{i}"]) for i in range(10)]
    nodes.append(helper.make_node("Sum", [f"n{i}" for i in range(10)], ["y"]))
    read = load(model(nodes, [], [value("y", [3000])], {"w": np.ones(3000, np.float32)})).graph
    known = [read.constant(f"n{i}") is not None for i in range(10)]
    assert known == [True] * count + [False] * (10 - count)


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [
        ("Div", [I64, ints(2)]),
        ("Div", [np.abs(I64), ints(0)]),
        ("Range", [np.float32(0), np.float32(1), np.float32(0)]),
        ("Add", [F32, np.ones(7, np.float32)]),
        ("Gather", [F32, ints(99)]),
        ("Gather", [np.float32(1), ints(0)]),
        ("Reshape", [F32, ints(7, 7)]),
        ("Expand", [F32, ints(*[1] * 70)]),
        ("Tile", [F32, ints(-1, -1, 1)]),
        ("ConstantOfShape", [ints(-3)]),
        ("MatMul", [F32, F32]),
        ("MatMul", [np.ones((1024, 1025), np.float32), np.ones((1025, 1024), np.float32)]),
        ("ReduceSum", [F32, ints(7)]),
        ("Softmax", [F32]),
        ("RandomUniformLike", [F32]),
    ],
)
def test_what_has_no_certain_value_is_no_constant(kind, arrays):
    assert load(unsaid(kind, arrays)).graph.constant("y") is None


def unsaid(kind: str, arrays: list[np.ndarray], **attributes) -> ModelProto:
    """A model that says nothing about the operator's output, which may not exist."""
    names = [f"c{slot}" for slot in range(len(arrays))]
    nodes = [helper.make_node(kind, names, ["y"], **attributes), helper.make_node("Shape", ["y"], ["s"])]
    return model(nodes, [], [value("s", [None], TensorProto.INT64)], dict(zip(names, arrays, strict=True)))


def test_old_broadcasting_is_not_guessed_at():
    node = helper.make_node("Add", ["a", "b"], ["y"], broadcast=1, axis=0)
    params = {"a": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32)}
    read = load(model([node], [], [value("y", [4, 4])], params, opset=6)).graph
    assert read.constant("y") is None


def test_operators_of_other_domains_are_not_evaluated():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    node = helper.make_node("Add", ["a", "a"], ["y"], domain="acme")
    proto = model([node], [], [value("y", [1])], {"a": np.ones(1, np.float32)}, opset_imports=opsets)
    assert load(proto).graph.constant("y") is None


def test_operators_with_subgraphs_are_not_evaluated():
    body = graph([helper.make_node("Neg", ["w"], ["z"])], [], [value("z", [1])])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    params = {"w": np.ones(1, np.float32), "flag": np.array(True)}
    read = load(model([node], [], [value("y", [1])], params)).graph
    assert read.constant("y") is None
    inner = next(iter(read.ops())).subgraphs["then_branch"]
    np.testing.assert_array_equal(inner.constant("z").array(), [-1])


def test_a_constant_that_was_computed_can_be_written():
    loaded = load(conv_bn())
    changed = loaded.graph.copy()
    changed.params["new"] = (
        load(on_constants("Transpose", [np.ones((30, 40), np.float32)], 17)).graph.constant("y0").renamed("new")
    )
    written = loaded.with_graph(changed).to_proto().graph.initializer[-1]
    assert (written.name, list(written.dims)) == ("new", [40, 30])


@pytest.mark.parametrize("known", [True, False])
def test_what_is_cast_like_a_tensor_is_constant_if_the_type_of_that_is_known(known):
    nodes = [
        helper.make_node("Identity" if known else "Mystery", ["x"], ["like"], domain="" if known else "nowhere"),
        helper.make_node("CastLike", ["c", "like"], ["y"]),
    ]
    proto = model(nodes, [value("x", [3])], [value("y", [2])], {"c": np.array([1.75, -2.25])}, opset=19)
    proto.opset_import.append(helper.make_opsetid("nowhere", 1))
    found = load(proto).graph.constant("y")
    if known:
        assert found is not None
        assert found.dtype == np.float32
        assert found.array().tolist() == [1.75, -2.25]
    else:
        assert found is None


def test_a_tensor_cast_like_a_constant_is_none():
    nodes = [helper.make_node("CastLike", ["x", "c"], ["y"])]
    proto = model(nodes, [value("x", [3])], [value("y", [3])], {"c": F32}, opset=19)
    assert load(proto).graph.constant("y") is None


PARTS = [
    ("Shape", {}, [], None),
    ("Shape", {"start": 1, "end": 3}, [], [3, 4]),
    ("Shape", {"start": -2}, [], [4, 5]),
    ("Shape", {"end": 1}, [], None),
    ("Gather", {}, [np.array(1)], 3),
    ("Gather", {}, [ints(-1, 1)], [5, 3]),
    ("Gather", {}, [np.array(0)], None),
    ("Gather", {}, [np.array(4)], None),
    ("Slice", {}, [ints(1), ints(3)], [3, 4]),
    ("Slice", {}, [ints(2), ints(0), ints(0), ints(-1)], [4, 3]),
    ("Slice", {}, [ints(0), ints(3)], None),
    ("ReduceProd", {}, [], None),
]


@pytest.mark.parametrize(("kind", "attributes", "others", "found"), PARTS)
def test_known_sizes_of_a_tensor_that_is_fed_are_constants(kind, attributes, others, found):
    """Against onnxruntime, where they are known; the batch is not."""
    names = [f"c{slot}" for slot in range(len(others))]
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    nodes += [] if kind == "Shape" else [helper.make_node("Shape", ["r"], ["shape"])]
    nodes.append(helper.make_node(kind, ["r" if kind == "Shape" else "shape", *names], ["y"], **attributes))
    proto = model(
        nodes,
        [value("x", ["N", 3, 4, 5])],
        [value("y", [None] * (others[0].ndim if kind == "Gather" else 1), TensorProto.INT64)],
        dict(zip(names, others, strict=True)),
    )
    param = load(proto).graph.constant("y")
    assert (None if param is None else param.array().tolist()) == found
    if found is not None:
        (expected,) = run(proto, {"x": F32[None]})
        np.testing.assert_array_equal(param.array(), expected)


def test_sizes_of_an_unknown_rank_or_by_computed_indices_are_not_known():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Neg", ["one"], ["index"]),
        helper.make_node("Gather", ["shape", "index"], ["y"]),
        helper.make_node("Reshape", ["x", "fed"], ["r"]),
        helper.make_node("Shape", ["r"], ["z"], start=0, end=1),
    ]
    inputs = [value("x", ["N", 4]), value("fed", ["R"], TensorProto.INT64)]
    outputs = [value("y", [], TensorProto.INT64), value("z", [None], TensorProto.INT64)]
    read = load(model(nodes, inputs, outputs, {"one": np.array(1)})).graph
    assert read.constant("y") is None
    assert read.constant("z") is None
