"""BatchNormalization as an affine: its forms over the opsets, its parameters, its dtypes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from helpers import BFLOAT16, Net, assert_gone, assert_stays, fold, fold_unrun
from onnx import helper

from bnfold.folding import fold_graph
from bnfold.formats import load
from bnfold.operators import Node, as_affine, batchnorm, facts_of
from bnfold.operators.base import dim_of
from bnfold.operators.batchnorm import BatchNorm
from bnfold.refusal import Refusal

NEWEST = onnx.defs.onnx_opset_version()
EPS = 2.0**-23
#: The newest operator set that the installed onnxruntime promises to run.
RUNNABLE = min(NEWEST, 23)


def conv(net: Net, channels: int = 4) -> str:
    return net.op("Conv", net.input("N", 3, 6, 6), net.draw(channels, 3, 3, 3))


@pytest.mark.parametrize("opset", range(7, RUNNABLE + 1))
def test_folds_in_every_opset(opset):
    net = Net(opset=opset)
    assert fold(net.build(net.op("Relu", net.bn(conv(net), 4)))).count() == 2


def test_the_newest_opset_folds_without_being_run():
    net = Net(opset=NEWEST)
    graph, _ = fold_graph(load(net.build(net.bn(conv(net), 4))).graph)
    assert [op.type for op in graph.ops()] == ["Conv"]


@pytest.mark.parametrize("epsilon", [None, 1e-3, 0.5])
def test_epsilon_counts(epsilon):
    net = Net()
    attrs = {} if epsilon is None else {"epsilon": epsilon}
    assert fold(net.build(net.bn(conv(net), 4, **attrs))).count() == 1


def test_the_numbers_are_read_in_float64():
    net = Net()
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    model = load(net.build(net.op("BatchNormalization", conv(net), *vectors, name="bn")))
    numbers = batchnorm(model.graph, model.graph.op("bn"))
    gamma, beta, mean, variance = (vector.astype(np.float64) for vector in vectors)
    assert numbers.channels == 4
    # The default is an attribute's, and so a float32.
    scale = gamma / np.sqrt(variance + np.float64(np.float32(1e-5)))
    np.testing.assert_allclose(numbers.affine.scale, scale, rtol=1e-15)
    np.testing.assert_allclose(numbers.affine.shift, beta - mean * scale, rtol=1e-14)


def test_no_other_operator_has_numbers():
    net = Net()
    model = load(net.build(conv(net)))
    assert batchnorm(model.graph, model.graph.ops()[0]) is None


# -- training ----------------------------------------------------------------------------------------


def test_training_mode_refuses():
    net = Net(opset=15)
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    y, *_ = net.op("BatchNormalization", conv(net), *vectors, outputs=3, training_mode=1, name="bn")
    model = net.build(y)
    graph, plan = fold_graph(load(model).graph)
    assert [op.type for op in graph.ops()] == ["Conv", "BatchNormalization"]
    assert not plan.steps
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, Refusal)
    assert numbers.code == "training-mode"
    assert "statistics of each batch" in numbers.sentence


def standardised(net: Net, weight: str, training_mode: int) -> list[str]:
    """A Conv of weights that a BN standardises, and a BN behind it; the names of the first's statistics."""
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    rows = net.op("Reshape", weight, np.array([1, 4, -1]))
    names = ["rows", "mean", "variance"][: 3 if training_mode else 1]
    net.op("BatchNormalization", rows, *vectors, name="bn", outputs=names, training_mode=training_mode)
    y = net.op("Conv", net.input("N", 3, 6, 6), net.op("Reshape", "rows", np.array([4, 3, 3, 3])))
    net.output(net.bn(y, 4), shape=["N", 4, 4, 4])
    return names[1:]


@pytest.mark.parametrize("training_mode", [0, 1])
def test_weights_that_a_batchnorm_standardises_are_constants(training_mode):
    net = Net(opset=15)
    standardised(net, net.const(net.draw(4, 3, 3, 3)), training_mode)
    folded = fold(net.build())
    assert folded.count() == folded.count("Conv") == 1


@pytest.mark.parametrize("read", [None, 0, 1], ids=["fed", "mean", "variance"])
def test_statistics_of_weights_that_are_fed_or_that_somebody_reads_are_of_each_batch(read):
    net = Net(opset=15)
    weight = net.input(4, 3, 3, 3) if read is None else net.const(net.draw(4, 3, 3, 3))
    statistics = standardised(net, weight, training_mode=1)
    net.output(*[] if read is None else [statistics[read]], shape=[4])
    folded = fold_unrun(net.build())
    assert folded.count("BatchNormalization") == 2
    graph = load(folded.after).graph
    assert batchnorm(graph, graph.op("bn")).code == "training-mode"


@pytest.mark.parametrize("used", [True, False])
def test_before_opset_14_the_extra_outputs_mean_training_where_they_are_used(used):
    net = Net(opset=9)
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    names = ["y", "mean", "variance", "saved_mean", "saved_variance"]
    y, mean, *_ = net.op("BatchNormalization", conv(net), *vectors, outputs=names)
    if used:
        net.output(mean, shape=[4])
    graph, plan = fold_graph(load(net.build(y)).graph)
    assert len(graph) == (2 if used else 1)
    assert bool(plan.steps) is not used


@pytest.mark.parametrize(
    ("opset", "outputs", "attrs", "used", "training"),
    [
        (6, 1, {}, (), True),
        (6, 1, {"is_test": 0}, (), True),
        (6, 1, {"is_test": 1}, (), False),
        (6, 5, {"is_test": 1}, (4,), True),
        (7, 1, {}, (), False),
        (7, 5, {}, (), False),
        (7, 5, {}, (1,), True),
        (13, 5, {}, (4,), True),
        (14, 1, {}, (), False),
        (14, 1, {"training_mode": 0}, (), False),
        (14, 1, {"training_mode": 1}, (), True),
        (14, 3, {}, (), False),
        (14, 3, {}, (1,), True),
        (14, 3, {}, (2,), True),
    ],
)
def test_what_tells_training(opset, outputs, attrs, used, training):
    net = Net(opset=opset)
    names = ["y", *(f"statistics_{index}" for index in range(1, outputs))]
    net.nodes.append(helper.make_node("BatchNormalization", ["x", *"sbmv"], names, name="bn", **attrs))
    net.input(2, 4, 5, name="x")
    for name in "sbmv":
        net.const(net.positive(4), name)
    net.output("y", shape=[2, 4, 5])
    for index in used:
        net.output(names[index], shape=[4])
    model = helper.make_model(net.graph(), opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    graph = load(model).graph
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, Refusal) == training
    assert not isinstance(numbers, Refusal) or numbers.code == "training-mode"


def quantised(net: Net, values: np.ndarray, scale: str) -> str:
    return net.op("DequantizeLinear", np.round(values * 50).astype(np.int8), scale)


@pytest.mark.parametrize("fed", [False, True])
def test_parameters_that_are_dequantised_are_numbers_where_these_are_constants(fed):
    """onnxruntime's quantiser does so to the scale and the shift of a BN that was not folded before."""
    net = Net()
    scale = net.input(name="scale") if fed else net.const(np.float32(0.02))
    gamma, beta = quantised(net, net.positive(4), scale), quantised(net, net.draw(4), scale)
    y = net.op("BatchNormalization", conv(net), gamma, beta, net.draw(4), net.positive(4), name="bn")
    folded = fold(net.build(net.op("Tanh", y)))
    if fed:
        assert_stays(folded, "dynamic-parameters", "bn (BatchNormalization)")
    else:
        assert folded.count() == folded.count("Conv", "Tanh") == 2


# -- parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [1, 2, 3, 4])
def test_a_parameter_computed_at_run_time_refuses(slot):
    net = Net()
    vectors = [net.const(net.positive(4)) for _ in range(4)]
    vectors[slot - 1] = net.input(4, name="fed")
    model = net.build(net.op("BatchNormalization", conv(net), *vectors, name="bn"))
    graph, plan = fold_graph(load(model).graph)
    assert not plan.steps
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, Refusal)
    assert numbers.code == "dynamic-parameters"
    assert "fed" in numbers.sentence


def test_a_parameter_computed_at_run_time_is_no_identity_and_tells_no_channels():
    net = Net()
    x = net.unknown_rank(net.input("N", 16), (-1, 4, 2, 2))
    fed = net.input(4, name="fed")
    y = net.op("BatchNormalization", x, fed, *(net.positive(4) for _ in range(3)), name="bn")
    graph = load(net.build(net.op("Reshape", y, np.array([-1])))).graph
    op = graph.op("bn")
    assert not facts_of(op).is_identity(Node(graph, op))
    assert dim_of(graph, op.outputs[0], 1) is None


@pytest.mark.parametrize("frozen", [True, False])
def test_a_parameter_that_the_caller_may_override(frozen):
    net = Net()
    vectors = [net.const(net.positive(4)) for _ in range(4)]
    net.input(4, name=vectors[2])
    model = net.build(net.op("BatchNormalization", conv(net), *vectors, name="bn"))
    folded = fold_unrun(model, keep_overridable=not frozen)
    assert folded.count("BatchNormalization") == (0 if frozen else 1)
    graph = load(model).graph
    graph.freeze_overridable = frozen
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, BatchNorm) == frozen
    assert not isinstance(numbers, Refusal) or numbers.code == "overridable"


@pytest.mark.parametrize("slot", [1, 2, 3, 4])
def test_parameters_that_are_no_floating_point_numbers_refuse(slot):
    """As they may stand in a subgraph, where the checker does not look at types."""
    net = Net()
    vectors = [net.positive(4) for _ in range(4)]
    vectors[slot - 1] = np.ones(4, np.int32)
    net.output(net.op("BatchNormalization", net.input(2, 4), *vectors, name="bn"), shape=(2, 4))
    opsets = [helper.make_opsetid("", 17)]
    graph = load(helper.make_model(net.graph(), opset_imports=opsets, ir_version=8)).graph
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, Refusal)
    assert numbers.code == "invalid-statistics"


def test_the_type_of_the_numbers_is_that_of_the_statistics():
    net = Net(opset=15)
    vectors = [net.positive(4).astype(dtype) for dtype in ("float16", "float16", "float32", "float32")]
    x = net.input(2, 4, dtype=np.float16)
    net.output(net.op("BatchNormalization", x, *vectors, name="bn"), shape=(2, 4), dtype=np.float16)
    graph = load(net.build()).graph
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, BatchNorm)
    assert numbers.dtype == np.float32


@pytest.mark.parametrize(("values", "slot"), [(-1.0, 3), (np.nan, 0), (np.inf, 1), (np.nan, 3)])
def test_invalid_statistics_refuse(values, slot):
    net = Net()
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    vectors[slot][2] = values
    folded = fold(net.build(net.op("BatchNormalization", conv(net), *vectors, name="bn")))
    assert not folded.plan.steps
    assert folded.count("BatchNormalization") == 1
    graph = load(folded.after).graph
    refusal = as_affine(graph, graph.op("bn"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid-statistics"


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_no_variance_and_no_epsilon_refuse(gamma):
    net = Net()
    vectors = [np.full(4, gamma, np.float32), net.draw(4), net.draw(4), np.zeros(4, np.float32)]
    graph = load(net.build(net.op("BatchNormalization", conv(net), *vectors, epsilon=0.0, name="bn"))).graph
    assert isinstance(as_affine(graph, graph.op("bn")), Refusal)


def test_no_channels_refuse():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 6, 6), net.draw(0, 3, 3, 3))
    plan = fold_unrun(net.build(net.bn(y, 0, name="bn"))).plan
    assert not plan.steps


def test_scales_whose_product_overflows_are_not_composed():
    net = Net(dtype=np.float64)
    y = net.op("Mul", net.op("Tanh", net.input("N", 4)), np.float64(1e200))
    y = net.op("Sigmoid", net.op("Mul", y, net.positive(4) * 1e200))
    assert fold(net.build(y)).count("Mul") == 2


def test_a_variance_below_zero_that_epsilon_lifts_is_what_the_runtime_computes():
    net = Net()
    vectors = [net.positive(4), net.draw(4), net.draw(4), np.full(4, -1e-4, np.float32)]
    assert fold(net.build(net.op("BatchNormalization", conv(net), *vectors, epsilon=1e-3))).count() == 1


@pytest.mark.parametrize("scale", [0.0, 1e-30, -1.0, 1e20])
def test_extreme_scales_fold(scale):
    net = Net()
    vectors = [np.full(4, scale, np.float32), net.draw(4), net.draw(4), net.positive(4)]
    folded = fold(net.build(net.op("BatchNormalization", conv(net), *vectors)))
    assert folded.count() == 1


def test_an_overflowing_scale_refuses():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 6, 6), 1e10 * net.positive(4, 3, 3, 3), name="first")
    folded = fold(net.build(net.op("Mul", y, np.float32(1e30))))
    assert_stays(folded, "overflow", "first (Conv)", "would overflow float32")


def test_a_batchnorm_shared_by_two_places_folds_into_both():
    net = Net()
    vectors = [net.const(net.positive(4)) for _ in range(4)]
    first, second = conv(net), conv(net)
    y = [net.op("BatchNormalization", x, *vectors) for x in (first, second)]
    assert fold(net.build(net.op("Concat", *y, axis=1))).count() == 3


def test_a_parameter_that_is_also_a_weight_is_only_read():
    net = Net()
    shared = net.const(net.positive(4), "shared")
    vectors = [shared, net.const(net.draw(4)), net.const(net.draw(4)), net.const(net.positive(4))]
    y = net.op("BatchNormalization", conv(net), *vectors)
    bias = net.op("Conv", y, net.draw(4, 4, 1, 1), shared)
    folded = fold(net.build(net.op("Relu", bias), net.op("Tanh", shared)))
    assert folded.count("BatchNormalization") == 0
    assert folded.constant("shared").shape == (4,)


def test_one_constant_in_all_slots():
    net = Net()
    ones = net.const(np.ones(4, np.float32))
    assert fold(net.build(net.op("BatchNormalization", conv(net), ones, ones, ones, ones))).count() == 1


# -- spatial -----------------------------------------------------------------------------------------


def per_activation(net: Net, x: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    vectors = [net.positive(*shape) for _ in range(4)]
    return net.build(net.op("BatchNormalization", x, *vectors, spatial=0, name="bn"))


def test_statistics_by_activation_refuse():
    net = Net(opset=8)
    graph, plan = fold_graph(load(per_activation(net, conv(net), (4, 4, 4))).graph)
    assert len(graph) == 2
    assert not plan.steps
    numbers = batchnorm(graph, graph.op("bn"))
    assert isinstance(numbers, Refusal)
    assert numbers.code == "per-activation"


def test_by_activation_and_by_channel_are_the_same_for_a_matrix():
    net = Net(opset=8)
    y = net.op("Gemm", net.input(2, 3), net.draw(3, 4), net.draw(4))
    graph, _ = fold_graph(load(per_activation(net, y, (4,))).graph)
    assert [op.type for op in graph.ops()] == ["Gemm"]


@pytest.mark.parametrize(
    ("shape", "sizes", "spatial", "code"),
    [
        ((2, 4, 5), (4, 4, 4, 4), 1, ""),
        ((2, 4, 5), (4, 4, 4, 4), 0, "per-activation"),
        ((2, 4), (4, 4, 4, 4), 0, ""),
        ((2, 4, 5), ((4, 5),) * 4, 1, "per-activation"),
        ((2, 4, 5), (4, 4, 4, 1), 1, "per-activation"),
        ((2, 4, 5), (4, 4, 4, (4, 1)), 1, "per-activation"),
        ((4,), (4, 4, 4, 4), 1, "size-mismatch"),
        ((4,), (1, 1, 1, 1), 1, ""),
    ],
)
def test_which_statistics_are_those_of_channels(shape, sizes, spatial, code):
    net = Net(opset=8)
    vectors = [net.positive(*np.atleast_1d(size)) for size in sizes]
    y = net.op("BatchNormalization", net.input(*shape), *vectors, spatial=spatial, name="bn")
    net.output(y, shape=shape)
    graph = load(net.build()).graph
    numbers = batchnorm(graph, graph.op("bn"))
    assert (numbers.code if isinstance(numbers, Refusal) else "") == code


@pytest.mark.parametrize("channels", [1, 4])
def test_the_statistics_tell_the_channels_where_the_shape_is_unknown(channels):
    """One statistic may be that of a vector."""
    net = Net()
    x = net.unknown_rank(net.input("N", 4 * channels), (-1, channels, 2, 2))
    y = net.op("BatchNormalization", x, *(net.positive(channels) for _ in range(4)), name="bn")
    graph = load(net.build(net.op("Reshape", y, np.array([-1])))).graph
    assert dim_of(graph, graph.op("bn").outputs[0], 1) == (channels if channels > 1 else None)
    assert dim_of(graph, graph.op("bn").outputs[0], 0) is None


# -- the channel axis --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(), (5,), (5, 6), (2, 3, 4)])
def test_folds_at_every_rank_from_two_on(sizes):
    net = Net()
    if sizes:
        y = net.op("Conv", net.input("N", 3, *sizes), net.draw(4, 3, *[1] * len(sizes)))
    else:
        y = net.op("Gemm", net.input("N", 3), net.draw(3, 4))
    assert fold(net.build(net.bn(y, 4))).count() == 1


def test_unknown_shapes_fold_where_the_weights_tell_the_channels():
    net = Net()
    x = net.unknown_rank(net.input("N", 108), (-1, 3, 6, 6))
    y = net.op("Relu", net.bn(net.op("Conv", x, net.draw(4, 3, 3, 3)), 4))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert_gone(folded)


def test_a_long_chain_of_unknown_rank_is_followed_without_recursion():
    net = Net()
    y = net.unknown_rank(net.input("N", 108), (-1, 3, 6, 6))
    for _ in range(400):
        y = net.op("Tanh", net.exact_bn(y, np.full(3, 0.5), np.full(3, 0.1)))
    _, plan = fold_graph(load(net.build(net.op("Reshape", y, np.array([-1])))).graph)
    assert not plan.steps
    assert len(plan.remaining) == 400


# -- dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_half_and_double_precision_fold(dtype):
    net = Net(dtype=dtype)
    y = net.op("Relu", net.bn(net.op("Gemm", net.input("N", 3), net.draw(3, 4)), 4))
    assert fold(net.build(y)).count() == 2


def test_bfloat16_folds_to_within_one_rounding():
    """onnxruntime has no bfloat16 Conv on the CPU: the weights are compared instead."""
    net = Net(dtype=BFLOAT16)
    weight = net.draw(4, 3, 3, 3)
    y = net.op("Conv", net.input("N", 3, 6, 6), net.const(weight, "weight"))
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    graph, _ = fold_graph(load(net.build(net.op("BatchNormalization", y, *vectors))).graph)
    (only,) = graph.ops()
    gamma, _, _, variance = (vector.astype(np.float64) for vector in vectors)
    scale = gamma / np.sqrt(variance + float(np.float32(1e-5)))
    expected = (weight.astype(np.float64) * scale.reshape(4, 1, 1, 1)).astype(BFLOAT16)
    actual = graph.params[only.inputs[1]].array()
    assert actual.dtype == BFLOAT16
    np.testing.assert_array_equal(actual, expected)


def test_parameters_of_another_dtype_fold_into_the_weights_dtype():
    net = Net(opset=15, dtype=np.float16)
    y = net.op("Conv", net.input("N", 3, 6, 6), net.const(net.draw(4, 3, 3, 3), "weight"))
    vectors = [net.positive(4).astype(np.float32) for _ in range(4)]
    folded = fold(net.build(net.op("BatchNormalization", y, *vectors)))
    assert folded.count() == 1
    assert folded.constant("weight").dtype == np.float16
    assert folded.constant(folded.node("Conv").input[2]).dtype == np.float16


def test_half_precision_weights_that_would_overflow_refuse():
    net = Net(dtype=np.float16)
    y = net.op("Conv", net.input("N", 3, 6, 6), net.draw(4, 3, 3, 3), name="first")
    scale = np.array([1.0, 1.0, 60000.0, 1.0])
    assert_stays(fold(net.build(net.exact_bn(y, scale, np.ones(4)))), "fp16-overflow", "first (Conv)", "overflow")


def test_half_precision_weights_that_would_vanish_refuse():
    net = Net(dtype=np.float16)
    y = net.op("Conv", net.input("N", 3, 6, 6), 1e-3 * net.positive(4, 3, 3, 3).astype(np.float16), name="first")
    folded = fold(net.build(net.op("Mul", y, np.full((4, 1, 1), 1e-3, np.float16))))
    assert_stays(folded, "fp16-overflow", "first (Conv)", "vanish")


def test_scales_whose_product_would_vanish_are_not_composed():
    net = Net(dtype=np.float16)
    y = net.op("Tanh", net.op("Mul", net.input("N", 4), np.float16(1000)))
    y = net.op("Mul", net.op("Mul", y, np.full(4, 1e-4, np.float16)), np.full(4, 1e-4, np.float16))
    assert fold(net.build(net.op("Relu", y))).count("Mul") == 3


def test_products_that_overflow_in_between_are_composed_where_the_result_is_finite():
    net = Net(dtype=np.float16)
    y = net.op("Tanh", net.input("N", 4))
    for factor in (300.0, 300.0, 1e-3):
        y = net.op("Mul", y, np.full(4, factor, np.float16))
    graph, _ = fold_graph(load(net.build(net.op("Relu", y))).graph)
    assert sum(op.type == "Mul" for op in graph.ops()) == 1


def test_an_affine_over_several_axes_is_taken_in_by_another():
    net = Net()
    y = net.op("Relu", net.op("Mul", net.op("Tanh", net.input(2, 4, 5)), net.draw(4, 5)))
    folded = fold(net.build(net.op("Sigmoid", net.op("Mul", y, net.positive(4, 5)))))
    assert folded.count("Mul") == 1


# -- what does nothing -------------------------------------------------------------------------------


def test_a_batchnorm_that_does_nothing_is_removed():
    net = Net()
    variance, mean = net.positive(4), net.draw(4)
    gamma = np.sqrt(variance.astype(np.float64) + 1e-5).astype(np.float32)
    y = net.op("Tanh", net.input("N", 4))
    folded = fold(net.build(net.op("Tanh", net.op("BatchNormalization", y, gamma, mean, mean, variance))))
    assert folded.count() == 2
    assert folded.plan.steps[0].kind == "identity"


@pytest.mark.parametrize(("gamma", "beta", "mean", "does_nothing"), [
    (2.0, 2.0, 2.0, True),
    (2.0 + 2 * EPS, 2.0, 2.0, True),
    (2.0 + 3 * EPS, 2.0, 2.0, False),
    (2.0 - 3 * EPS, 2.0, 2.0, False),
    (2.0, 2.0, 2.0 - 2 * EPS, True),
    (2.0, 2.0 - 2 * EPS, 2.0, True),
    (2.0, 2.0, 2.0 - 3 * EPS, False),
    (2.0, 0.0, EPS, False),
])  # fmt: skip
def test_what_does_nothing_to_rounding(gamma, beta, mean, does_nothing):
    """Off by one unit in the last place of the statistics, relative to the larger of two values."""
    vectors = [np.array([plain, value]) for plain, value in ((1.0, gamma), (0.0, beta), (0.0, mean), (1.0, 4.0))]
    assert BatchNorm(*vectors, 0.0, 1, np.dtype(np.float32)).is_identity(EPS) == does_nothing


def test_a_batchnorm_that_does_next_to_nothing_is_not_removed():
    net = Net()
    variance, mean = net.positive(4), net.draw(4)
    gamma = (1.00001 * np.sqrt(variance.astype(np.float64) + 1e-5)).astype(np.float32)
    y = net.op("Tanh", net.input("N", 4))
    folded = fold(net.build(net.op("Tanh", net.op("BatchNormalization", y, gamma, mean, mean, variance))))
    assert folded.count("BatchNormalization") == 1


def test_a_batchnorm_that_stays_and_only_scales_or_shifts_becomes_simpler():
    net = Net()
    y = net.op("Tanh", net.input("N", 4))
    scaled = net.op("Tanh", net.exact_bn(y, net.positive(4), np.zeros(4)))
    shifted = net.op("Tanh", net.exact_bn(scaled, np.ones(4), net.draw(4)))
    folded = fold(net.build(shifted))
    assert folded.count("BatchNormalization") == 0
    assert folded.count("Mul") == folded.count("Add") == 1


def test_is_test_decides_before_opset_7():
    for flag in (0, 1):
        node = helper.make_node(
            "BatchNormalization", ["x", *"sbmv"], ["y"], name="bn", is_test=flag, consumed_inputs=[0, 0, 0, 1, 1]
        )
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "sbmv"]
        data = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 4]) for name in "xy"]
        weights = [onnx.numpy_helper.from_array(np.ones(4, np.float32), name) for name in "sbmv"]
        graph = helper.make_graph([node], "g", [data[0], *values], data[1:], weights)
        loaded = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 1)], ir_version=3)).graph
        assert isinstance(batchnorm(loaded, loaded.op("bn")), Refusal) is not bool(flag)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("variance", "stays"), [(0.9993, True), (1.0, False)])
def test_what_does_nothing_is_judged_as_in_float32(dtype, variance, stays):
    """From opset 15 on the statistics may be float16 where the data are float32. No gamma is nearer to the root."""
    net = Net(opset=15, dtype=dtype)
    half = [net.const(np.full(4, value), dtype=np.float16) for value in (1.0, 0.0, 0.0, variance)]
    x = net.op("Relu", net.input("N", 4, 5))
    folded = fold_unrun(net.build(net.op("BatchNormalization", x, *half, epsilon=0.0)))
    assert len(folded.after.graph.node) == 1 + stays
    if stays and dtype == np.float32:  # onnxruntime has no kernel for it
        feed = {folded.before.graph.input[0].name: net.draw(2, 4, 5)}
        before, after = (onnx.reference.ReferenceEvaluator(m).run(None, feed)[0] for m in (folded.before, folded.after))
        np.testing.assert_allclose(after, before, rtol=1e-6)


def test_the_default_epsilon_is_a_float32_in_double_precision_too():
    net = Net(dtype=np.float64)
    x = net.op("MatMul", net.input("N", 3), net.draw(3, 4))
    small = [net.positive(4), net.draw(4), net.draw(4), 1e-6 * net.positive(4)]
    fold(net.build(net.op("BatchNormalization", x, *small)))


def test_sizes_are_what_draws_with_the_statistics_show():
    """Root mean squares of 200,000 normal numbers for each channel, before and behind."""
    rng = np.random.default_rng(0)
    gamma, beta, mean, variance = np.array([[1.0, -0.5, 2.0], [0.0, 3.0, -1.0], [5.0, 0.0, -0.2], [1.0, 4.0, 0.25]])
    numbers = BatchNorm(gamma, beta, mean, variance, 0.0, 1, np.dtype(np.float32))
    x = rng.normal(mean, np.sqrt(variance), (200_000, 3))
    scale, shift = numbers.affine.scale, numbers.affine.shift
    drawn = [np.sqrt(np.mean(np.square(y), axis=0)) for y in (scale * x, scale * x + shift)]
    np.testing.assert_allclose(numbers.sizes(numbers.affine), drawn, rtol=0.01)
