"""The float64 evaluator against onnx's stored outputs and against onnxruntime on models in double."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from verification_models import model

from bnfold.verification.float64 import Evaluator, NotEvaluatedError

sys.path.insert(0, str(Path(__file__).parents[2] / "fuzz"))

from backend_models import cases

node = helper.make_node
DOUBLE = TensorProto.DOUBLE
#: How far the stored outputs, computed in the model's precision, may be from exact.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1e-2}
#: What draws at random, and what the stored outputs of are not what onnxruntime computes: with scales whose product
#: with the size is no whole number it takes the size of the output, rounded; the others' are stored with four digits.
OTHERWISE = (
    "test_bernoulli",
    "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
    "test_roialign",
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
)


def agrees(expected, found):
    if expected.dtype.kind == "f" or expected.dtype.name == "bfloat16":
        wide = expected.astype(np.float64)
        finite = np.isfinite(wide)
        limit = TOLERANCE.get(expected.dtype.name, 1e-5) * max(np.abs(wide[finite]).max(initial=0.0), 1e-6)
        same = np.array_equal(wide[~finite], found[~finite], equal_nan=True)
        return same and bool((np.abs(wide[finite] - found[finite]) <= limit).all())
    return list(map(str, expected.ravel().tolist())) == list(map(str, found.ravel().tolist()))


@pytest.mark.slow
def test_onnxs_own_models_give_their_stored_outputs():
    agreeing, wrong, unknown = 0, [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases():
            if case.name.startswith(OTHERWISE):
                continue
            feed = dict(zip([value.name for value in case.model.graph.input], case.inputs, strict=False))
            try:
                outputs = Evaluator(case.model).run(feed)
            except NotEvaluatedError:
                unknown.append(case.name)
                continue
            found = [outputs[value.name] for value in case.model.graph.output]
            right = all(
                b.shape == np.shape(a) and agrees(np.asarray(a), b) for a, b in zip(case.outputs, found, strict=True)
            )
            agreeing += right
            wrong += [] if right else [case.name]
    assert not wrong
    assert agreeing > 1500
    assert len(unknown) < 0.03 * agreeing, unknown


def against_runtime(proto, feed, tolerance=1e-13):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feed)
    found = Evaluator(proto).run(feed)
    for value, name in zip(expected, (value.name for value in proto.graph.output), strict=True):
        assert found[name].dtype == np.float64
        assert np.abs(found[name] - value).max() <= tolerance * np.abs(value).max()


def test_double_models_agree_with_the_runtime_to_the_last_digits():
    rng = np.random.default_rng(0)
    body = helper.make_graph(
        [node("MatMul", ["z", "w"], ["m"]), node("Tanh", ["m"], ["t"]), node("Identity", ["going"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (("i", 7, []), ("going", 9, []), ("z", DOUBLE, [3, 6]))
        ],
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (("on", 9, []), ("t", DOUBLE, [3, 6]), ("m", DOUBLE, [3, 6]))
        ],
    )
    nodes = [
        node("Loop", ["n", "", "x"], ["last", "all"], body=body),
        node("Softmax", ["last"], ["s"], axis=-1),
        node("ReduceMean", ["all"], ["r"], axes=[0], keepdims=0),
        node("Add", ["s", "r"], ["y"]),
    ]
    weights = {"w": rng.standard_normal((6, 6)), "n": np.array(4)}
    types = {"x": DOUBLE, "y": DOUBLE}
    against_runtime(model(nodes, {"x": [3, 6]}, ["y"], weights, types=types), {"x": rng.standard_normal((3, 6))})


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_short_floats_are_the_numbers_they_are(kind):
    """0.1 is not 0.1: what is stored is computed with, and nothing is rounded on the way."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Mul", ["h", "c"], ["m"]),
        node("Cast", ["m"], ["y"], to=number),
    ]
    proto = model(nodes, {"x": [2]}, ["y"], {"c": np.float16(0.1)}, types={"x": number, "y": number})
    x = np.array([0.3, 1e5 if kind == "float32" else 3], kind)
    assert Evaluator(proto).run({"x": x})["y"].tolist() == (x.astype("f8") * np.float64(np.float16(0.1))).tolist()


def test_a_function_has_its_own_attributes_or_their_defaults():
    slope = helper.make_attribute("slope", 0.25)
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "own", "Leak", ["a"], ["b"], [leaky], [helper.make_opsetid("", 17)], attribute_protos=[slope]
    )
    nodes = [node("Leak", ["x"], ["y"], domain="own"), node("Leak", ["x"], ["z"], domain="own", slope=0.5)]
    proto = model(nodes, {"x": [1]}, ["y", "z"])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    found = Evaluator(proto).run({"x": np.float32([-8])})
    assert (found["y"].item(), found["z"].item()) == (-2.0, -4.0)


def test_nodes_need_not_be_in_order():
    nodes = [node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])]
    assert Evaluator(model(nodes, {"x": [2]}, ["y"])).run({"x": np.float32([1, -2])})["y"].tolist() == [0.0, 2.0]


def test_weights_may_lie_in_another_file(tmp_path):
    values = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 4]}, ["y"], {"w": values})
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="data", size_threshold=0)
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    x = np.ones((1, 4), np.float32)
    found = Evaluator(light, str(tmp_path)).run({"x": x})["y"]
    assert np.allclose(found, values.astype("f8").sum(0), rtol=1e-15)
    (tmp_path / "data").unlink()
    with pytest.raises(NotEvaluatedError, match="'w' cannot be read"):
        Evaluator(light, str(tmp_path)).run({"x": x})


@pytest.mark.parametrize("domain", ["com.microsoft", "my.own"])
def test_what_is_not_known_is_named(domain):
    proto = model([node("Mystery", ["x"], ["y"], domain=domain)], {"x": [1]}, ["y"])
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(NotEvaluatedError, match=f"{domain}.Mystery is not known"):
        Evaluator(proto).run({"x": np.float32([1])})


def test_a_tensor_that_is_fed_takes_the_place_of_what_is_computed():
    proto = model([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], {"x": [2]}, ["y"])
    evaluator, x = Evaluator(proto), np.float32([1, 2])
    assert np.array_equal(evaluator.run({"x": x})["y"], Evaluator(proto).run({"x": x})["y"])
    assert evaluator.run({"x": x, "r": np.float32([10, 20])})["y"].tolist() == [11.0, 22.0]


def test_floats_of_8_bits_are_rounded_for_good():
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT8E5M2), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
    found = Evaluator(model(nodes, {"x": [3]}, ["y"], opset=19)).run({"x": np.float32([1.1, 3.3, 1e6])})["y"]
    assert found.tolist() == [1.0, 3.5, 57344.0]


def test_tensors_of_the_file_are_numpy_arrays_of_their_type():
    proto = model([node("Add", ["x", "k"], ["y"])], {"x": [2]}, ["y"], {"k": np.int32([1, 2])})
    assert numpy_helper.to_array(proto.graph.initializer[0]).dtype == np.int32
    assert Evaluator(proto).run({"x": np.int32([2**31 - 1, 0])})["y"].dtype == np.int32


EMPTY = {
    "Conv": ([0, 4, 5, 5], [(6, 2, 3, 3), (6,)], {"group": 2}),
    "ConvTranspose": ([0, 4, 5, 5], [(4, 3, 2, 2), (6,)], {"group": 2}),
    "MaxPool": ([0, 4, 5, 5], [], {"kernel_shape": [2, 2]}),
    "AveragePool": ([0, 4, 5, 5], [], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
    "GlobalAveragePool": ([0, 4, 5, 5], [], {}),
    "GlobalMaxPool": ([0, 4, 5, 5], [], {}),
    "InstanceNormalization": ([0, 4, 5, 5], [(4,), (4,)], {}),
    "LayerNormalization": ([0, 4, 5], [(5,), (5,)], {}),
    "BatchNormalization": ([0, 4, 5], [(4,), (4,), (4,), (4,)], {}),
    "Softmax": ([0, 4, 5], [], {"axis": 1}),
    "LRN": ([0, 4, 5, 5], [], {"size": 3}),
    "Gemm": ([0, 4], [(4, 3), (3,)], {}),
    "MatMul": ([2, 0, 4], [(4, 3)], {}),
    "Einsum": ([2, 0, 4], [(4, 3)], {"equation": "bik,kn->bin"}),
    "DepthToSpace": ([0, 4, 2, 2], [], {"blocksize": 2}),
    "ReduceMax": ([0, 4, 5], [], {"axes": [1], "keepdims": 0}),
    "Flatten": ([0, 4, 5], [], {}),
    "PRelu": ([0, 4, 5], [(4, 1)], {}),
    "CumSum": ([0, 4], [], {}),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_batch_of_none_gives_nothing_of_the_same_shape(kind):
    shape, weights, attributes = EMPTY[kind]
    names = [f"w{index}" for index in range(len(weights))]
    values = {name: np.ones(size, np.float32) for name, size in zip(names, weights, strict=True)}
    if kind == "CumSum":
        names, values = ["axis"], {"axis": np.array(1, np.int64)}
    proto = model([node(kind, ["x", *names], ["y"], **attributes)], {"x": shape}, ["y"], values, opset=17)
    x = np.zeros(shape, np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert Evaluator(proto).run({"x": x})["y"].shape == session.run(None, {"x": x})[0].shape
