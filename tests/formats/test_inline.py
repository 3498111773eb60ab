"""Model-local functions, inlined where they hold something to fold."""

from __future__ import annotations

import numpy as np
import onnx.checker
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from onnx_models import graph, model, run, value

import bnfold
from bnfold.errors import ModelFileError
from bnfold.formats import load
from bnfold.formats.onnx import loader

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
X, Y = value("x", ["N", 40]), value("y", ["N", 40])
WEIGHT = np.random.default_rng(0).standard_normal((40, 40), dtype=np.float32)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def function(name, inputs, outputs, nodes):
    return helper.make_function("local", name, inputs, outputs, nodes, OPSETS)


def call(name, inputs, outputs):
    return node(name, inputs, outputs, domain="local")


def with_functions(nodes, *functions, inputs=(X,)) -> ModelProto:
    params = {"scale": np.full(40, 2, np.float32), "bias": np.ones(40, np.float32)}
    proto = model(nodes, list(inputs), [Y], params, opset_imports=OPSETS)
    proto.functions.extend(functions)
    onnx.checker.check_model(proto)
    return proto


LINEAR = function(
    "linear",
    ["a"],
    ["b"],
    [
        node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        node("MatMul", ["a", "w"], ["m"]),
        node("Identity", ["m"], ["b"]),
    ],
)
NORM = function("norm", ["a", "s", "t"], ["b"], [node("Mul", ["a", "s"], ["m"]), node("Add", ["m", "t"], ["b"])])
BLOCK = function(
    "block",
    ["a", "s", "t"],
    ["b"],
    [call("linear", ["a"], ["l"]), call("norm", ["l", "s", "t"], ["n"]), call("act", ["n"], ["b"])],
)
ACT = function("act", ["a"], ["b"], [node("Sigmoid", ["a"], ["g"]), node("Tanh", ["g"], ["b"])])
UNUSED = function("unused", ["a"], ["b"], [node("Relu", ["a"], ["b"])])
FEED = {"x": np.random.default_rng(1).standard_normal((3, 40), dtype=np.float32)}


def test_functions_that_hold_something_to_fold_are_inlined_at_any_depth():
    blocks = [call("block", ["x", "scale", "bias"], ["h"]), call("block", ["h", "scale", "bias"], ["y"])]
    proto = with_functions(blocks, LINEAR, NORM, BLOCK, ACT, UNUSED)
    loaded = load(proto)
    assert [op.type for op in loaded.graph.ops()] == ["block", "block"]
    inlined = loaded.inlined()
    assert sorted({op.type for op in inlined.graph.ops()}) == ["Add", "Constant", "Identity", "MatMul", "Mul", "act"]
    after = inlined.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert [f.name for f in after.functions] == ["act"]
    np.testing.assert_array_equal(run(after, FEED)[0], run(proto, FEED)[0])
    assert loaded.to_proto() == proto


def test_large_constants_in_functions_are_shared_not_copied(tmp_path):
    proto = with_functions([call("linear", ["x"], ["h"]), call("linear", ["h"], ["y"])], LINEAR)
    onnx.save(proto, tmp_path / "model.onnx")
    inlined = load(tmp_path / "model.onnx").inlined()
    constants = [op.outputs[0] for op in inlined.graph.ops() if op.type == "Constant"]
    first, second = (inlined.graph.constant(name) for name in constants)
    assert first.data.payload is second.data.payload
    np.testing.assert_array_equal(first.array(), WEIGHT)
    inlined.save(tmp_path / "out.onnx", external_data=True)
    assert (tmp_path / "out.onnx.data").stat().st_size == WEIGHT.nbytes
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", FEED)[0], run(proto, FEED)[0])


def test_functions_without_anything_to_fold_stay():
    proto = with_functions([call("act", ["x"], ["y"])], ACT)
    loaded = load(proto)
    assert loaded.inlined() is loaded


def test_a_normalisation_in_a_function_takes_in_what_follows_the_call():
    held = function("held", ["a", "s", "t"], ["b"], [node("InstanceNormalization", ["a", "s", "t"], ["b"])])
    image, out = value("x", ["N", 40, 6]), value("y", ["N", 40, 6])
    params = {
        "scale": np.full(40, 2, np.float32),
        "bias": np.ones(40, np.float32),
        "w": np.full((40, 1), 3, np.float32),
    }
    nodes = [call("held", ["x", "scale", "bias"], ["h"]), node("Mul", ["h", "w"], ["y"])]
    proto = model(nodes, [image], [out], params, opset_imports=OPSETS)
    proto.functions.append(held)
    folded = bnfold.fold(proto).model.to_proto()
    assert [op.op_type for op in folded.graph.node] == ["InstanceNormalization"]
    feed = {"x": np.random.default_rng(1).standard_normal((3, 40, 6), dtype=np.float32)}
    np.testing.assert_allclose(run(folded, feed)[0], run(proto, feed)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_function_that_holds_a_recurrent_layer_is_inlined(kind):
    held = function("held", ["a", "s", "t"], ["b"], [node(kind, ["a", "s", "t"], ["", "b"], hidden_size=2)])
    image, out = value("x", [3, 1, 4]), value("y", [1, 1, 2])
    gates = 2 * {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    params = {"w": np.ones((1, gates, 4), np.float32), "r": np.ones((1, gates, 2), np.float32)}
    proto = model([call("held", ["x", "w", "r"], ["y"])], [image], [out], params, opset_imports=OPSETS)
    proto.functions.append(held)
    assert [op.type for op in load(proto).inlined().graph.ops()] == [kind]


def test_without_functions_nothing_happens():
    loaded = load(model([node("Mul", ["x", "x"], ["y"])], [X], [Y]))
    assert loaded.inlined() is loaded


def test_calls_from_subgraphs():
    then = graph([call("norm", ["x", "scale", "bias"], ["t"])], [], [value("t", None)])
    other = graph([call("act", ["x"], ["e"])], [], [value("e", None)])
    choice = node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other)
    proto = with_functions([choice], NORM, ACT, inputs=(X, value("flag", [], TensorProto.BOOL)))
    inlined = load(proto).inlined()
    bodies = next(iter(inlined.graph.ops())).subgraphs
    assert [op.type for op in bodies["then_branch"].ops()] == ["Mul", "Add"]
    assert [op.type for op in bodies["else_branch"].ops()] == ["act"]
    for flag in (True, False):
        feeds = {**FEED, "flag": np.array(flag)}
        np.testing.assert_array_equal(run(inlined.to_proto(), feeds)[0], run(proto, feeds)[0])


def test_attributes_of_a_call_reach_the_inlined_operators():
    scaled = helper.make_function("local", "scaled", ["a", "s"], ["b"], [], OPSETS, ["alpha"])
    leaky = scaled.node.add(op_type="LeakyRelu", input=["a"], output=["l"])
    leaky.attribute.add(name="alpha", ref_attr_name="alpha", type="FLOAT")
    scaled.node.add(op_type="Mul", input=["l", "s"], output=["b"])
    caller = call("scaled", ["x", "scale"], ["y"])
    caller.attribute.add(name="alpha", type="FLOAT", f=0.25)
    proto = with_functions([caller], scaled)
    ops = load(proto).inlined().graph.ops()
    assert [op.type for op in ops] == ["LeakyRelu", "Mul"]
    assert ops[0].attributes == {"alpha": 0.25}


def test_an_inlined_model_is_not_taken_for_its_file(tmp_path):
    proto = with_functions([call("norm", ["x", "scale", "bias"], ["y"])], NORM)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    written = load(path).inlined().as_onnx(tmp_path)
    assert written != path
    assert onnx.load(path) == proto
    np.testing.assert_array_equal(run(written, FEED)[0], run(proto, FEED)[0])


def doubling(depth: int, innermost: str) -> ModelProto:
    """A function that calls another one twice, which calls another one twice…"""
    functions = [function("f0", ["a"], ["b"], [node(innermost, ["a"], ["b"])])]
    for level in range(1, depth):
        twice = [call(f"f{level - 1}", ["a"], ["m"]), call(f"f{level - 1}", ["m"], ["b"])]
        functions.append(function(f"f{level}", ["a"], ["b"], twice))
    proto = model([call(f"f{depth - 1}", ["x"], ["y"])], [X], [Y], opset_imports=OPSETS)
    proto.functions.extend(functions)
    return proto


@pytest.mark.parametrize("depth", [30, 5000])
def test_functions_that_unfold_without_end_are_refused(depth):
    with pytest.raises(ModelFileError, match="has functions that unfold to more than 1,048,576 operators"):
        load(doubling(depth, "Relu"))


def test_a_model_without_functions_may_be_of_any_size(monkeypatch):
    monkeypatch.setattr(loader, "MAX_OPERATORS", 2)
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    assert len(load(model(nodes, [X], [Y])).graph) == 3
    assert len(load(doubling(2, "Relu")).graph) == 1
    with pytest.raises(ModelFileError, match="has functions that unfold to more than 2 operators"):
        load(doubling(3, "Relu"))


def test_functions_may_call_each_other_often():
    assert load(doubling(18, "Relu")).graph.inputs


def test_functions_that_call_themselves_are_refused():
    proto = doubling(3, "Relu")
    proto.functions[0].node.append(call("f2", ["a"], ["unused"]))
    with pytest.raises(ModelFileError, match=r"cannot be unfolded: its function 'f[0-2]' calls itself"):
        load(proto)


def test_the_default_of_an_attribute_that_a_call_leaves_out():
    batchnorm = node("BatchNormalization", ["a", "s", "t", "m", "v"], ["n"])
    reference = batchnorm.attribute.add(name="epsilon", ref_attr_name="eps", type=AttributeProto.FLOAT)
    assert reference.ref_attr_name == "eps"
    names = ["a", "s", "t", "m", "v"]
    inner = helper.make_function(
        "local", "inner", names, ["n"], [batchnorm], OPSETS, [], [helper.make_attribute("eps", 0.25)]
    )
    # The first call inside relies on the default, the second says something else; both in a function that is called.
    outer = function("outer", names, ["c"], [call("inner", names, ["b"]), call("inner", ["b", *names[1:]], ["c"])])
    outer.node[1].attribute.append(helper.make_attribute("eps", 1.5))
    params = {"s": np.ones(40), "t": np.ones(40), "m": np.zeros(40), "v": np.full(40, 0.5)}
    proto = model(
        [call("outer", ["x", *names[1:]], ["y"])],
        [X],
        [Y],
        {name: values.astype(np.float32) for name, values in params.items()},
        opset_imports=OPSETS,
    )
    proto.functions.extend([inner, outer])
    onnx.checker.check_model(proto, full_check=True)
    expected = run(proto, FEED)[0]
    inlined = load(proto).inlined()
    assert not inlined.to_proto().functions
    np.testing.assert_allclose(run(inlined.to_proto(), FEED)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(run(bnfold.fold(proto).model.to_proto(), FEED)[0], expected, rtol=1e-5)
