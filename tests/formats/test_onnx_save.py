"""ModelGraph → file: what is kept, what goes, and that the result is a sound model."""

from __future__ import annotations

import threading
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import conv_bn, graph, model, run, value

import bnfold
from bnfold.errors import UsageError
from bnfold.formats import load
from bnfold.graph import Op, Param, Tensor

X, Y, FLAG = value("x", ["N", 4]), value("y", ["N", 4]), value("flag", [], TensorProto.BOOL)


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def names(values) -> list[str]:
    return [item.name for item in values]


def checked(proto: ModelProto) -> ModelProto:
    onnx.checker.check_model(proto, full_check=True)
    return proto


def fold_by_hand(proto: ModelProto) -> tuple[ModelProto, ModelProto]:
    """The Conv of :func:`conv_bn` with its BatchNormalization folded in, written and read again."""
    loaded = load(proto)
    folded = loaded.graph.copy()
    gamma, beta, mean, variance = (folded.params[name].exact() for name in ("gamma", "beta", "mean", "variance"))
    scale = gamma / np.sqrt(variance + 1e-5)
    folded.params["weight"] = folded.params["weight"].scaled(scale.reshape(-1, 1, 1, 1))
    folded.params["bias"] = Param.of("bias", beta - mean * scale, np.dtype(np.float32))
    conv = folded.op("conv")
    folded.remove("bn")
    folded.put(replace(conv, inputs=(*conv.inputs, "bias"), outputs=("bn_out",), record=None))
    return proto, loaded.with_graph(folded).to_proto()


def test_a_changed_graph_is_written():
    before, after = fold_by_hand(conv_bn(channels=32))
    checked(after)
    assert [n.op_type for n in after.graph.node] == ["Conv", "Relu"]
    assert names(after.graph.initializer) == ["weight", "bias"]
    assert list(after.graph.node[0].input) == ["image", "weight", "bias"]
    assert after.graph.node[0].attribute == before.graph.node[0].attribute
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(run(after, {"image": image})[0], run(before, {"image": image})[0], rtol=1e-4, atol=1e-5)


def test_the_model_that_was_loaded_is_as_it_was():
    proto = conv_bn(channels=32)
    loaded = load(proto)
    changed = loaded.graph.copy()
    changed.remove("relu")
    changed.params.clear()
    assert loaded.with_graph(changed).to_proto() != proto
    assert loaded.to_proto() == proto


def decorated() -> ModelProto:
    proto = conv_bn(channels=32)
    proto.producer_name, proto.producer_version, proto.domain = "trainer", "1.2", "org.example"
    proto.model_version, proto.doc_string = 7, "what it does"
    proto.metadata_props.add(key="author", value="someone")
    proto.opset_import.append(helper.make_opsetid("acme", 3))
    function = helper.make_function(
        "acme", "twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [proto.opset_import[0]]
    )
    proto.functions.append(function)
    proto.graph.doc_string = "the graph"
    proto.graph.metadata_props.add(key="k", value="v")
    proto.graph.node[2].doc_string = "the last node"
    proto.graph.node[0].metadata_props.add(key="layer", value="first")
    proto.graph.initializer[0].doc_string = "the weight"
    proto.graph.input[0].doc_string = "an image"
    proto.graph.value_info.append(value("conv_out", ["N", 32, 8, 8]))
    proto.graph.value_info.append(value("bn_out", ["N", 32, 8, 8]))
    annotation = proto.graph.quantization_annotation.add(tensor_name="result")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="quant_scale")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "quant_scale"))
    data = proto.SerializeToString() + bytes([0x9A, 0x3F, 3]) + b"new"  # field 1011, which onnx does not have yet
    return ModelProto.FromString(data)


def test_everything_else_in_the_file_is_kept():
    before, after = fold_by_hand(decorated())
    assert checked(after).SerializeToString().endswith(b"\x9a\x3f\x03new")
    assert load(before).metadata == {"author": "someone"}
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string",
                  "metadata_props", "opset_import", "functions"):  # fmt: skip
        assert getattr(after, field) == getattr(before, field), field
    for field in ("name", "doc_string", "metadata_props", "input", "output", "quantization_annotation"):
        assert getattr(after.graph, field) == getattr(before.graph, field), field
    assert after.graph.node[0].metadata_props == before.graph.node[0].metadata_props
    assert after.graph.node[1] == before.graph.node[2]
    assert "quant_scale" in names(after.graph.initializer)


def test_value_infos_follow_the_tensors():
    _, after = fold_by_hand(decorated())
    assert names(after.graph.value_info) == ["bn_out"]  # conv_out is gone


@pytest.mark.parametrize("had_any", [True, False])
def test_new_tensors_are_declared_where_the_others_are(had_any):
    proto = conv_bn()
    if had_any:
        proto.graph.value_info.append(value("conv_out", ["N", 16, 8, 8]))
    loaded = load(proto)
    changed = loaded.graph.copy()
    changed.remove("relu")
    changed.declare(Tensor("middle", np.dtype(np.float32), ("N", 16, 8, 8)))
    changed.put(Op("neg", "Neg", ("bn_out",), ("middle",)))
    changed.put(Op("unknown", "Abs", ("middle",), ("untyped",)))
    changed.put(Op("relu", "Relu", ("untyped",), ("result",)))
    after = checked(loaded.with_graph(changed).to_proto())
    assert [n.name for n in after.graph.node] == ["conv", "bn", "neg", "unknown", "relu"]
    assert names(after.graph.value_info) == (["conv_out", "middle"] if had_any else [])


def test_parameters_that_nobody_reads_any_more_are_gone_and_those_nobody_read_stay():
    proto = conv_bn()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "never_read"))
    _, after = fold_by_hand(proto)
    assert names(after.graph.initializer) == ["weight", "never_read", "bias"]


def test_training_information_keeps_what_it_may_read():
    proto = conv_bn()
    proto.training_info.add().update_binding.add(key="gamma", value="new_gamma")
    before, after = fold_by_hand(proto)
    assert "gamma" in names(after.graph.initializer)
    assert after.training_info == before.training_info


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.float32, np.random.default_rng(0).standard_normal((40, 50))),
        (np.float16, np.random.default_rng(0).standard_normal((40, 50))),
        (np.float64, np.random.default_rng(0).standard_normal((40, 50))),
        (ml_dtypes.bfloat16, np.random.default_rng(0).standard_normal((40, 50))),
        (np.int8, np.arange(2000) % 256 - 128),
        (np.int64, np.arange(3)),
        (np.bool_, np.arange(2000) % 2),
        (ml_dtypes.int4, np.arange(2001) % 16 - 8),
        (ml_dtypes.float8_e4m3fn, np.arange(2000) % 7),
        (np.float32, np.array(3.5)),
        (np.float32, np.empty((0, 4))),
    ],
)
def test_new_parameters_of_every_kind(dtype, values):
    loaded = load(conv_bn(ir_version=10))
    changed = loaded.graph.copy()
    new = values.astype(np.float64 if np.dtype(dtype).kind in "fV" else dtype)
    changed.params["new"] = Param.of("new", new, np.dtype(dtype))
    after = loaded.with_graph(changed).to_proto()
    written = load(after).graph.params["new"]
    assert (written.dtype, written.shape) == (np.dtype(dtype), values.shape)
    assert written.array().tobytes() == values.astype(dtype).tobytes()


def test_a_renamed_parameter_is_copied_under_its_new_name():
    proto = conv_bn(channels=64)
    loaded = load(proto)
    changed = loaded.graph.copy()
    changed.params["kernel"] = changed.params.pop("weight").renamed("kernel")
    conv = changed.op("conv")
    changed.put(replace(conv, inputs=("image", "kernel")))  # the record says weight, and is not believed
    after = checked(loaded.with_graph(changed).to_proto())
    assert list(after.graph.node[0].input) == ["image", "kernel"]
    expected = numpy_helper.to_array(proto.graph.initializer[0])
    np.testing.assert_array_equal(numpy_helper.to_array(after.graph.initializer[-1]), expected)


def test_attributes_of_new_operators_take_their_types_from_the_schema():
    loaded = load(model([node("Relu", ["x"], ["y"])], [X], [Y]))
    changed = loaded.graph.copy()
    changed.remove("Relu_0")
    attributes = {"alpha": 1, "beta": 2.0, "transB": True}
    changed.params["w"] = Param.of("w", np.eye(4, dtype=np.float32))
    changed.put(Op("new_gemm", "Gemm", ("x", "w"), ("y",), attributes))
    after = checked(loaded.with_graph(changed).to_proto())
    gemm = after.graph.node[0]
    assert gemm.name == "new_gemm"
    assert {a.name: helper.get_attribute_value(a) for a in gemm.attribute} == {"alpha": 1.0, "beta": 2.0, "transB": 1}
    assert gemm.attribute[0].type == onnx.AttributeProto.FLOAT


def test_attributes_that_no_schema_knows_take_their_types_from_the_values():
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    loaded = load(model([node("Relu", ["x"], ["y"])], [X], [Y], opset_imports=opsets))
    changed = loaded.graph.copy()
    changed.remove("Relu_0")
    attributes = {
        "i": 1, "f": 0.5, "s": "text", "b": b"\xff", "ints": [1, 2], "floats": [1, 0.5], "empty": [],
        "strings": ["a", "b"], "t": np.arange(3.0), "absent": None, "npi": np.int64(4), "npf": np.float32(0.25),
    }  # fmt: skip
    changed.put(Op("op", "Anything", ("x",), ("y",), attributes, domain="acme"))
    again = load(checked(loaded.with_graph(changed).to_proto())).graph.ops()[0].attributes
    np.testing.assert_array_equal(again["t"], np.arange(3.0))
    del attributes["t"], attributes["absent"]
    assert {key: again[key] for key in attributes} == attributes
    assert "absent" not in again


def test_an_operator_whose_attributes_changed_keeps_the_rest():
    proto = conv_bn()
    proto.graph.node[0].doc_string = "documented"
    loaded = load(proto)
    changed = loaded.graph.copy()
    conv = changed.op("conv")
    changed.put(replace(conv, attributes={**conv.attributes, "group": 1}))
    after = checked(loaded.with_graph(changed).to_proto()).graph.node[0]
    assert (after.name, after.doc_string) == ("conv", "documented")
    assert {a.name: helper.get_attribute_value(a) for a in after.attribute} == {"pads": [1, 1, 1, 1], "group": 1}


def listed(ir_version: int) -> ModelProto:
    proto = conv_bn(ir_version=ir_version)
    proto.graph.input.extend(value(t.name, t.dims) for t in proto.graph.initializer)
    return checked(proto)


def test_a_model_of_ir_version_3_stays_so_while_its_initializers_are_listed():
    proto = listed(3)
    loaded = load(proto)
    changed = loaded.graph.copy()
    changed.params["weight"] = changed.params["weight"].scaled(np.full((1, 1, 1, 1), 2.0))
    after = checked(loaded.with_graph(changed).to_proto())
    assert (after.ir_version, after.graph.input) == (3, proto.graph.input)


def test_a_constant_that_grew_is_declared_as_it_is_now():
    """IR version 3 lists initializers among the inputs: a Gemm's bias of one number becomes one of each column."""
    rng = np.random.default_rng(0)
    vectors = {name: rng.uniform(0.5, 1.5, 5).astype(np.float32) for name in ("g", "t", "m", "v")}
    params = {"w": rng.standard_normal((4, 5), dtype=np.float32), "b": np.array([0.3], np.float32), **vectors}
    nodes = [node("Gemm", ["x", "w", "b"], ["c"]), node("BatchNormalization", ["c", *vectors], ["out"])]
    proto = model(nodes, [X], [value("out", ["N", 5])], params, opset=8, ir_version=3)
    proto.graph.input.extend(value(t.name, t.dims) for t in proto.graph.initializer)
    proto.graph.value_info.append(value("b", [1]))
    feed = {"x": rng.standard_normal((3, 4), dtype=np.float32)}
    folded = bnfold.fold(checked(proto)).model.to_proto()
    onnx.checker.check_model(folded, full_check=True)
    assert [len(folded.graph.node), folded.ir_version] == [1, 3]
    np.testing.assert_allclose(run(folded, feed)[0], run(proto, feed)[0], rtol=1e-5, atol=1e-6)


def test_a_model_of_ir_version_3_with_new_initializers_becomes_4_and_lists_none():
    _, after = fold_by_hand(listed(3))
    checked(after)
    assert after.ir_version == 4
    assert names(after.graph.input) == ["image"]


@pytest.mark.parametrize("frozen", [set(), {"weight"}, {"weight", "gamma"}])
def test_parameters_that_are_not_overridable_any_more_leave_the_inputs(frozen):
    proto = listed(8)
    loaded = load(proto)
    changed = loaded.graph.copy()
    changed.overridable -= frozen
    after = checked(loaded.with_graph(changed).to_proto())
    assert names(after.graph.input) == [name for name in names(proto.graph.input) if name not in frozen]
    assert after.graph.initializer == proto.graph.initializer


def test_overridable_parameters_that_are_gone_leave_the_inputs_too():
    _, after = fold_by_hand(listed(8))
    assert names(checked(after).graph.input) == ["image", "weight"]


def test_outputs_may_be_added_for_looking_inside():
    loaded = load(conv_bn())
    watched = loaded.graph.copy()
    watched.outputs = [*watched.outputs, "conv_out"]
    after = loaded.with_graph(watched).to_proto()
    assert names(after.graph.output) == ["result", "conv_out"]
    image = np.ones((1, 3, 8, 8), np.float32)
    assert run(after, {"image": image})[1].shape == (1, 16, 8, 8)


def conditional() -> ModelProto:
    """y = relu(x·w + b) in one branch with a weight of its own and one from outside, y = x in the other."""
    rng = np.random.default_rng(3)
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "b"], ["a"], name="bias"),
        node("Relu", ["a"], ["then_y"]),
    ]
    then = graph(nodes, [], [value("then_y", None)], {"w": rng.standard_normal((4, 4), dtype=np.float32)})
    other = graph([node("Identity", ["x"], ["else_y"])], [], [value("else_y", None)])
    choice = node("If", ["flag"], ["y"], name="if", then_branch=then, else_branch=other)
    choice.doc_string = "a choice"
    return model([choice], [X, FLAG], [Y], {"b": rng.standard_normal(4, dtype=np.float32)})


def test_a_change_inside_a_subgraph_is_written():
    proto = conditional()
    loaded = load(proto)
    changed = loaded.graph.copy()
    then = changed.op("if").subgraphs["then_branch"]
    then.params["w"] = then.params["w"].scaled(np.full((1, 1), 2.0))
    then.params["own_b"] = Param.of("own_b", 2 * changed.params["b"].exact(), np.dtype(np.float32))
    bias = then.op("bias")
    then.put(replace(bias, inputs=("m", "own_b"), record=None))
    after = checked(loaded.with_graph(changed).to_proto())
    assert after.graph.node[0].doc_string == "a choice"
    x = np.random.default_rng(1).standard_normal((3, 4), dtype=np.float32)
    for flag, factor in ((True, 2), (False, 1)):
        feeds = {"x": x, "flag": np.array(flag)}
        np.testing.assert_allclose(run(after, feeds)[0], factor * run(proto, feeds)[0], rtol=1e-6)
    assert loaded.to_proto() == proto


def test_a_constant_that_only_a_subgraph_reads_is_kept():
    loaded = load(conditional())
    changed = loaded.graph.copy()
    op = changed.op("if")
    changed.put(replace(op, captures=("x",)))  # out of date: the graph does not know of b's reader any more
    assert names(loaded.with_graph(changed).to_proto().graph.initializer) == ["b"]


def test_an_operator_with_a_subgraph_that_was_in_no_file():
    loaded = load(conditional())
    changed = loaded.graph.copy()
    op = changed.op("if")
    changed.put(replace(op, record=None, attributes={}))
    after = checked(loaded.with_graph(changed).to_proto())
    feeds = {"x": np.ones((3, 4), np.float32), "flag": np.array(True)}
    np.testing.assert_array_equal(run(after, feeds)[0], run(loaded.to_proto(), feeds)[0])


def test_a_saved_file_is_what_to_proto_gives(tmp_path):
    loaded = load(decorated())
    loaded.save(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == loaded.to_proto()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_saving_over_the_source(tmp_path):
    path = tmp_path / "model.onnx"
    proto = conv_bn(channels=64)
    onnx.save(proto, path)
    loaded = load(path)
    changed = loaded.graph.copy()
    changed.params["weight"] = changed.params["weight"].scaled(np.full((1, 1, 1, 1), 2.0))
    loaded.with_graph(changed).save(path)
    expected = 2 * numpy_helper.to_array(proto.graph.initializer[0])
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), expected)
    assert loaded.to_proto() == proto


def test_a_keras_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"an ONNX model cannot be written as a Keras model"):
        load(conv_bn()).save(tmp_path / "model.keras")


def test_a_file_for_the_runtime(tmp_path):
    path = tmp_path / "source.onnx"
    onnx.save(conv_bn(), path)
    loaded = load(path)
    assert loaded.as_onnx(tmp_path) == path
    assert loaded.with_graph(loaded.graph).as_onnx(tmp_path) == path
    changed = loaded.with_graph(loaded.graph.copy()).as_onnx(tmp_path)
    assert changed != path
    assert onnx.load(changed) == onnx.load(path)
    from_bytes = load(path.read_bytes())
    assert onnx.load(from_bytes.as_onnx(tmp_path)) == onnx.load(path)


def test_a_source_that_was_replaced_is_not_taken_for_the_model(tmp_path):
    path = tmp_path / "source.onnx"
    onnx.save(conv_bn(seed=1), path)
    loaded = load(path)
    expected = onnx.load(path)
    onnx.save(conv_bn(seed=2), tmp_path / "new.onnx")
    (tmp_path / "new.onnx").replace(path)
    written = loaded.as_onnx(tmp_path)
    assert written != path
    assert onnx.load(written) == expected


def test_threads_may_share_a_model(tmp_path):
    loaded = load(conv_bn(channels=64))
    failures = []

    def work(number):
        try:
            changed = loaded.graph.copy()
            changed.params["weight"] = changed.params["weight"].scaled(np.full((1, 1, 1, 1), float(number)))
            loaded.with_graph(changed).save(tmp_path / f"{number}.onnx")
        except Exception as error:  # noqa: BLE001, it is raised again below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    weight = loaded.graph.params["weight"].array()
    for number in range(1, 9):
        written = onnx.load(tmp_path / f"{number}.onnx").graph.initializer[0]
        np.testing.assert_allclose(numpy_helper.to_array(written), number * weight, rtol=1e-6)
