"""What moves into a narrower floating-point type, past a Cast, and what does not."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import Net, assert_stays, fold, fold_unrun
from onnx import helper

from bnfold.folding import fold_graph
from bnfold.formats import load

F16, F32, F64 = np.float16, np.float32, np.float64


def cast(net: Net, x: str, dtype: Any) -> str:
    net.dtype = np.dtype(dtype)
    return str(net.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(net.dtype)))


def half_conv(net: Net) -> str:
    """A convolution in float16, widened."""
    x = cast(net, net.input("N", 3, 8, 8), F16)
    return cast(net, net.op("Conv", x, net.draw(4, 3, 3, 3), name="conv"), F32)


def norm(net: Net, x: str, channels: int, *, beta: float = 0.0, mean: float = 0.0) -> str:
    """A BN with scale 1/2: half of what it reads has the rms sqrt(mean^2 + 1), what it makes sqrt(beta^2 + 1)."""
    ones = np.ones(channels, F32)
    return str(net.op("BatchNormalization", x, ones, beta * ones, 2 * mean * ones, 4 * ones, name="norm", epsilon=0.0))


def test_a_bn_in_float32_between_two_casts_folds_into_float16() -> None:
    net = Net()
    y = cast(net, net.op("Relu", net.bn(half_conv(net), 4)), F16)
    folded = fold(net.build(cast(net, y, F32)), slack=2**13)
    assert folded.count("BatchNormalization", "Mul", "Add") == 0


@pytest.mark.parametrize("other", ["output", "Softmax", "Add"])
def test_a_shift_stays_where_float32_goes_on(other: str) -> None:
    net = Net()
    y = norm(net, half_conv(net), 4, beta=4.0)
    net.output(cast(net, net.op("Relu", y), F16))
    net.dtype = np.dtype(F32)
    net.output({"output": lambda: y, "Softmax": lambda: net.op("Softmax", y, axis=1),
                "Add": lambda: net.op("Add", y, net.op("Sigmoid", y))}[other]())  # fmt: skip
    assert_stays(fold(net.build(), slack=2**13), "narrow-float", "norm", "float16")


@pytest.mark.parametrize(("beta", "goes"), [(3.8, True), (4.0, False)])
def test_a_shift_goes_where_the_statistics_call_it_small(beta: float, goes: bool) -> None:
    """sqrt(beta^2 + 1) is rounded to float16 where 1 was."""
    net = Net()
    folded = fold(net.build(norm(net, half_conv(net), 4, beta=beta)), slack=2**13)
    assert folded.count("BatchNormalization", "Add") == (0 if goes else 1)


@pytest.mark.parametrize(("scale", "goes"), [(4.0, True), (4.5, False), (2.0**-7, True), (2.0**-8, False)])
def test_a_scale_moves_by_so_many_bits(scale: float, goes: bool) -> None:
    net = Net()
    model = net.build(net.op("Mul", half_conv(net), net.positive(1) * 0 + scale))
    assert fold(model, slack=2**13).count("Mul") == (0 if goes else 1)


@pytest.mark.parametrize(("narrow", "scale", "goes"), [(ml_dtypes.bfloat16, 4096.0, True), (F16, 4096.0, False)])
def test_a_type_with_a_large_range_takes_a_large_scale(narrow: Any, scale: float, goes: bool) -> None:
    net = Net()
    x = net.op("Conv", net.input("N", 3, 8, 8), net.draw(4, 3, 1, 1))
    y = net.op("Mul", cast(net, cast(net, x, narrow), F32), np.full((1,), scale, F32))
    assert fold_unrun(net.build(y)).count("Mul") == (0 if goes else 1)


def test_into_a_wider_type_everything_moves() -> None:
    net = Net()
    x = net.op("Conv", net.input("N", 3, 8, 8), 9 * net.draw(4, 3, 1, 1))
    y = net.bn(cast(net, x, F16), 4)
    folded = fold(net.build(cast(net, y, F32)), slack=2**13)
    assert folded.count("BatchNormalization") == 0


def test_the_cast_in_the_way_is_named() -> None:
    net = Net()
    y = norm(net, half_conv(net), 4, beta=4.0)
    graph = load(net.build(net.op("Tanh", y))).graph
    (left,) = fold_graph(graph)[1].remaining
    assert left.backward.code == "narrow-float"
    assert graph.op(left.backward.op).type == "Cast"
    assert graph.op(left.backward.op).outputs == graph.op("norm").inputs[:1]


def ahead(net: Net, x: str, affine: str) -> str:
    """An affine in float32, and a convolution in float16 behind it."""
    y = norm(net, x, 3, mean=4.0) if affine == "BN" else net.op("Mul", x, np.full((1,), 0.125, F32), name="norm")
    return cast(net, net.op("Conv", cast(net, y, F16), net.draw(4, 3, 3, 3)), F32)


@pytest.mark.parametrize("affine", ["BN", "Mul"])
def test_nothing_moves_forward_where_the_numbers_before_it_are_not_known_to_fit(affine: str) -> None:
    net = Net()
    model = net.build(ahead(net, net.input("N", 3, 8, 8), affine))
    assert_stays(fold(model, slack=2**13), "narrow-float", "float16")


@pytest.mark.parametrize(("mean", "deviation", "goes"), [(3.8, 1.0, True), (4.0, 1.0, False), (2e3, 1e3, False)])
def test_a_bn_goes_forward_where_its_statistics_say_that_its_input_fits(
    mean: float, deviation: float, goes: bool
) -> None:
    """With a deviation of 1,000 some input may be above 65,504."""
    net = Net()
    ones = np.ones(3, F32)
    vectors = [deviation / 2 * ones, 0 * ones, mean * ones, deviation**2 * ones]
    y = net.op("BatchNormalization", net.input("N", 3, 8, 8), *vectors, epsilon=0.0)
    y = net.op("Conv", cast(net, y, F16), net.draw(4, 3, 3, 3))
    assert fold(net.build(cast(net, y, F32)), slack=2**13).count("BatchNormalization") == (0 if goes else 1)


@pytest.mark.parametrize("affine", ["BN", "Mul"])
def test_what_came_out_of_float16_goes_back(affine: str) -> None:
    net = Net(dtype=F16)
    x = cast(net, net.op("Relu", net.input("N", 3, 8, 8)), F32)
    model = net.build(ahead(net, net.op("MaxPool", x, kernel_shape=[2, 2]), affine))
    assert fold(model, slack=2**13).count("BatchNormalization", "Mul") == 0


@pytest.mark.parametrize("between", [True, False])
def test_a_stream_in_float16_is_shifted_for_what_is_rounded_to_float16_again(between: bool) -> None:
    """Pre-activation blocks whose BN computes in float32, with the ReLU; the last one with all that comes behind it."""
    net = Net()
    x = cast(net, net.input("N", 3, 8, 8), F16)
    x = net.op("Conv", x, net.draw(4, 3, 1, 1))
    for _ in range(2):
        y = cast(net, net.op("Relu", net.bn(cast(net, x, F32), 4)), F16)
        x = net.op("Add", x, net.op("Conv", y, 0.2 * net.draw(4, 4, 1, 1), net.draw(4)))
    y = net.op("Relu", norm(net, cast(net, x, F32), 4, beta=5.0))
    y = cast(net, cast(net, y, F16), F32) if between else y
    net.dtype = np.dtype(F32)
    folded = fold(
        net.build(net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", y)), net.draw(4, 2))), slack=2**13
    )
    assert folded.count("BatchNormalization") == (0 if between else 1), folded.sentences
