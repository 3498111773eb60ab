"""ModelProto → ModelGraph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import conv_bn, graph, model, value

from bnfold.errors import ModelFileError
from bnfold.formats import load
from bnfold.formats.onnx.tensors import ELEMENT_TYPES, to_param, to_proto
from bnfold.graph import Param, Use, walk

X, Y, FLAG = value("x", ["N", 4]), value("y", ["N", 4]), value("flag", [], TensorProto.BOOL)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def test_operators_params_and_interface():
    read = load(conv_bn(channels=16)).graph
    assert [op.name for op in read.ops()] == ["conv", "bn", "relu"]
    conv = read.op("conv")
    assert (conv.type, conv.inputs, conv.outputs) == ("Conv", ("image", "weight"), ("conv_out",))
    assert conv.attributes == {"pads": [1, 1, 1, 1]}
    assert [(t.name, t.dtype, t.shape) for t in read.inputs] == [("image", np.float32, ("N", 3, 8, 8))]
    assert read.outputs == ("result",)
    assert read.params["weight"].shape == (16, 3, 3, 3)
    assert read.producer("bn_out").name == "bn"
    assert read.consumers("conv_out") == [Use("bn", 0)]
    assert read.opsets == {"": 17}
    assert not read.overridable


def test_operators_without_a_name_or_with_the_same_one():
    nodes = [node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["b"], name="n"), node("Abs", ["b"], ["c"], name="n")]
    nodes += [node("Relu", ["c"], ["y"], name="Relu_0")]
    ops = load(model(nodes, [X], [Y])).graph.ops()
    assert [op.name for op in ops] == ["Relu_0", "n", "n_2", "Relu_0_2"]
    assert [op.label for op in ops] == ["", "n", "n", "Relu_0"]
    assert ops[0].display == "a"


def test_attributes_are_decoded_to_python_values():
    tensor = numpy_helper.from_array(np.array([1.5, 2.5]))
    custom = node("Anything", ["x"], ["y"], domain="acme", i=3, f=0.5, s="text", b=b"\xff\xfe", t=tensor)
    for name, kind, field, items in (
        ("ints", "INTS", "ints", [1, 2]),
        ("none", "INTS", "ints", []),
        ("floats", "FLOATS", "floats", [0.5]),
        ("strings", "STRINGS", "strings", [b"a", b"b"]),
        ("tensors", "TENSORS", "tensors", [tensor, tensor]),
    ):
        attribute = custom.attribute.add(name=name, type=kind)
        getattr(attribute, field).extend(items)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    attributes = load(model([custom], [X], [Y], opset_imports=opsets)).graph.ops()[0].attributes
    assert list(attributes) == ["b", "f", "i", "s", "t", "ints", "none", "floats", "strings", "tensors"]
    assert len(attributes) == 10
    assert (attributes["i"], attributes["f"], attributes["s"], attributes["b"]) == (3, 0.5, "text", b"\xff\xfe")
    assert (attributes["ints"], attributes["none"], attributes["floats"]) == ([1, 2], [], [0.5])
    assert attributes["strings"] == ["a", "b"]
    np.testing.assert_array_equal(attributes["t"], [1.5, 2.5])
    assert len(attributes["tensors"]) == 2
    assert attributes.get("absent", 7) == 7
    with pytest.raises(KeyError):
        attributes["absent"]


def test_optional_inputs_that_are_left_out():
    clip = node("Clip", ["x", "", "high"], ["y"])
    op = load(model([clip], [X], [Y], {"high": np.float32(3)})).graph.ops()[0]
    assert op.inputs == ("x", "", "high")
    assert op.input(1) == ""


@pytest.mark.parametrize("ir_version", [3, 4, 8])
def test_initializers_that_are_also_inputs(ir_version):
    proto = model([node("Add", ["x", "w"], ["y"])], [X, value("w", [4])], [Y], {"w": np.ones(4, np.float32)})
    proto.ir_version = ir_version
    loaded = load(proto)
    assert loaded.ir_version == ir_version
    assert [tensor.name for tensor in loaded.graph.inputs] == ["x"]
    # Before IR version 4 listing them was the rule of the format, and nobody could override one.
    assert loaded.graph.overridable == ({"w"} if ir_version >= 4 else set())
    loaded.graph.freeze_overridable = False
    assert (loaded.graph.constant("w") is None) == (ir_version >= 4)


NUMERIC = [
    np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32,
    np.uint64, np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn,
    ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.float8_e8m0fnu, ml_dtypes.float6_e2m3fn, ml_dtypes.float6_e3m2fn,
]  # fmt: skip


BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2, "float6_e2m3fn": 6, "float6_e3m2fn": 6}


@pytest.mark.parametrize("storage", ["raw", "typed"])
@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (40, 50), (0, 3)], ids=str)
@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda dtype: np.dtype(dtype).name)
def test_params_of_every_element_type(dtype, shape, storage):
    values = np.random.default_rng(1).integers(0, 7, shape).astype(dtype)
    tensor = TensorProto(name="w", data_type=ELEMENT_TYPES[np.dtype(dtype)], dims=shape)
    if storage == "raw":
        tensor.raw_data = packed(values)
    else:
        field, content = typed(values)
        getattr(tensor, field).extend(content)
    param = to_param(tensor, None)
    assert (param.name, param.dtype, param.shape) == ("w", np.dtype(dtype), shape)
    array = param.array()
    assert array.dtype == dtype
    assert not array.flags.writeable
    assert array.tobytes() == values.tobytes()
    assert b"".join(block.tobytes() for block in param.blocks(max_bytes=64)) == values.tobytes()
    if shape and array.dtype.kind != "c":
        np.testing.assert_array_equal(param.exact_rows(1, 3), values[1:3].astype(np.float64))
    again = to_proto(Param.of("w", array))
    assert (again.data_type, list(again.dims), again.raw_data) == (tensor.data_type, list(shape), packed(values))


def packed(values: np.ndarray) -> bytes:
    """``raw_data``: bytes as they are, elements below a byte from the lowest bits on."""
    bits = BITS.get(values.dtype.name)
    if bits is None:
        return values.tobytes()
    number = sum((code & ((1 << bits) - 1)) << (bits * slot) for slot, code in enumerate(values.tobytes()))
    return number.to_bytes(-(-values.size * bits // 8), "little")


def typed(values: np.ndarray) -> tuple[str, list]:
    """The field of TensorProto for this element type, and its entries."""
    dtype = values.dtype
    if BITS.get(dtype.name, 6) < 6:
        return "int32_data", list(packed(values))
    if dtype.kind == "c":
        return ("float_data" if dtype == np.complex64 else "double_data"), np.atleast_1d(values).ravel().view(
            np.float32 if dtype == np.complex64 else np.float64
        ).tolist()
    fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
    if dtype.name in fields or dtype.name in ("uint32", "uint64"):
        return fields.get(dtype.name, "uint64_data"), values.ravel().tolist()
    if dtype.kind in "iu":
        return "int32_data", values.ravel().tolist()
    return "int32_data", np.frombuffer(values.tobytes(), f"u{dtype.itemsize}").tolist()


def test_strings():
    tensor = helper.make_tensor("w", TensorProto.STRING, [2], [b"one", b"zwei"])
    proto = model([node("Identity", ["w"], ["y"])], [], [value("y", [2], TensorProto.STRING)])
    proto.graph.initializer.append(tensor)
    loaded = load(proto)
    param = loaded.graph.params["w"]
    assert param.dtype == object
    assert list(param.array()) == [b"one", b"zwei"]
    assert loaded.to_proto() == proto


def test_large_weights_are_read_only_views_of_the_file(tmp_path):
    proto = conv_bn(channels=64)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    param = load(path).graph.params["weight"]
    array = param.array()
    np.testing.assert_array_equal(array, numpy_helper.to_array(proto.graph.initializer[0]))
    assert not array.flags.owndata
    assert not array.flags.writeable
    np.testing.assert_array_equal(param.data.rows(10, 20), array[10:20])


def test_the_model_outlives_its_file(tmp_path):
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    onnx.save(conv_bn(channels=64, seed=1), path)
    onnx.save(conv_bn(channels=64, seed=2), other)
    expected = onnx.load(path)
    loaded = load(path)
    other.replace(path)
    assert loaded.to_proto() == expected
    path.unlink()
    assert loaded.to_proto() == expected


def branches(*extra):
    """If(flag): y = x·inner + outer, else y = x + t, where t is computed outside; ``extra`` nodes come first."""
    then = graph(
        [node("Mul", ["x", "inner"], ["m"]), node("Add", ["m", "outer"], ["then_y"])],
        [],
        [value("then_y", None)],
        {"inner": np.full(4, 2, np.float32)},
    )
    other = graph([node("Add", ["x", "t"], ["else_y"])], [], [value("else_y", None)])
    nodes = [
        *extra,
        node("Exp", ["x"], ["t"]),
        node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other),
    ]
    return model(nodes, [X, FLAG], [Y], {"outer": np.ones(4, np.float32)})


def test_subgraphs_and_what_they_capture():
    read = load(branches()).graph
    op = read.op("if")
    assert set(op.subgraphs) == {"then_branch", "else_branch"}
    assert set(op.captures) == {"x", "outer", "t"}
    assert "then_branch" not in op.attributes
    then = op.subgraphs["then_branch"]
    assert then.parent is read
    assert [inner.type for inner in then.ops()] == ["Mul", "Add"]
    assert list(then.params) == ["inner"]
    assert then.constant("outer") is read.params["outer"]
    assert read.captured("t").name == "if"
    assert Use("if", None) in read.consumers("t")
    assert len(list(walk(read))) == 3


def test_captures_reach_through_two_levels():
    inner = graph([node("Add", ["a", "x"], ["z"])], [], [value("z", None)])
    middle = graph(
        [node("Neg", ["x"], ["a"]), node("If", ["flag"], ["m"], name="in", then_branch=inner, else_branch=inner)],
        [],
        [value("m", None)],
    )
    outer = node("If", ["flag"], ["y"], name="out", then_branch=middle, else_branch=middle)
    read = load(model([outer], [X, FLAG], [Y])).graph
    assert set(read.op("out").captures) == {"x", "flag"}
    assert set(read.op("out").subgraphs["then_branch"].op("in").captures) == {"a", "x"}


def test_what_a_subgraph_reads_must_exist_before_it():
    late = branches()
    late.graph.node.append(late.graph.node[0])
    del late.graph.node[0]
    with pytest.raises(ModelFileError, match="reads 't'"):
        load(late)


def test_sparse_initializers_are_known_but_not_params():
    dense = numpy_helper.from_array(np.array([3.0], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([2], np.int64))
    proto = model([node("Add", ["x", "sparse"], ["y"])], [X], [Y], ir_version=8)
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(dense, indices, [4]))
    loaded = load(proto)
    assert not loaded.graph.params
    assert loaded.graph.constant("sparse") is None
    assert loaded.graph.tensor("sparse").shape == (4,)
    assert loaded.to_proto() == proto


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (["N", 4], ("N", 4)),
        ([None, 4], (None, 4)),
        ([-1, 4], (None, 4)),
        ([], ()),
        ([0], (0,)),
        (None, None),
    ],
)
def test_declared_shapes(dims, shape):
    declared = value("t", dims)
    proto = model([node("Relu", ["x"], ["t"]), node("Relu", ["t"], ["y"])], [X], [Y])
    proto.graph.value_info.append(declared)
    assert load(proto).graph.known_tensors()["t"].shape == shape


def test_sequences_and_optionals_are_only_named():
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    proto = model([node("SequenceAt", ["s", "i"], ["y"])], [sequence], [Y], {"i": np.int64(0)})
    known = load(proto).graph.inputs[0]
    assert (known.name, known.dtype, known.shape) == ("s", None, None)
