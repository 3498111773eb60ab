"""Which tensors get scales, how large these are, and that the model stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_close, lines_of, random_feeds, run
from level_nets import SAME, C, LevelNet, equalized, imbalances, same_bits, unlevel
from onnx import numpy_helper

import bnfold
from bnfold.equalization import equalize_graph
from bnfold.formats import load


def weights(model):
    """By name of the operator."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.name: stored[node.input[1]] for node in model.graph.node if len(node.input) > 1 and node.input[1] in stored
    }


def pair(kind: str = "Relu", *, bits: float = 4.0, bias: float = 0.0, **attrs):
    made = LevelNet(Net(seed=3))
    x = made.conv(made.input(), kernel=3, bits=bits, bias=bias)
    if kind:
        x = made.same(kind, x, **attrs)
    return made, made.net.build(made.conv(x, bits=0.0))


def reference_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Equation 11 of arXiv 1906.04721: what channel i is divided by, ``s_i = sqrt(r1 r2) / r2``."""
    r1, r2 = np.abs(first).max(axis=(1, 2, 3)), np.abs(second).max(axis=(0, 2, 3))
    return np.sqrt(r1 * r2) / r2


def test_a_pair_gets_the_scales_of_equation_11():
    made, model = pair()
    first, second = (weights(model)[name] for name in made.layers)
    scales = reference_pair(first, second)
    _, after = equalized(model, exact=True)
    new_first, new_second = (weights(after)[name] for name in made.layers)
    # Scales are settled to a hundredth of a bit.
    np.testing.assert_allclose(new_first, first / scales[:, None, None, None], rtol=0.01)
    np.testing.assert_allclose(new_second, second * scales[None, :, None, None], rtol=0.01)


def test_powers_of_two_are_those_nearest_to_it():
    made, model = pair()
    first, second = (weights(model)[name] for name in made.layers)
    _, after = equalized(model)
    new = weights(after)[next(iter(made.layers))]
    ratio = (new / first).reshape(C, -1)
    assert (ratio == ratio[:, :1]).all()
    exponents = -np.log2(reference_pair(first, second))
    assert (np.abs(np.log2(ratio[:, 0]) - exponents) <= 0.5 + 1e-6).all()
    assert (np.log2(ratio) == np.rint(np.log2(ratio))).all()


@pytest.mark.parametrize(
    ("kind", "attrs"),
    [
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.1}),
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("AveragePool", {"kernel_shape": [2, 2]}),
        ("", {}),
    ],
)
def test_what_lets_a_positive_scale_pass_lets_it_equalise(kind, attrs):
    made, model = pair(kind, **attrs)
    result, after = equalized(model, branches=False)
    assert result.plan.scaled
    assert same_bits(model, after, random_feeds(model))
    (before,), (behind,) = imbalances(made, model, set()).values(), imbalances(made, after, set()).values()
    assert np.abs(before).max() > 2
    assert np.abs(behind).max() <= 1


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "HardSwish", "Elu"])
def test_what_lets_none_pass_stops_it(kind):
    _, model = pair(kind)
    result, after = equalized(model)
    assert not result.plan.scaled
    assert [item.reason for item in result.plan.unscaled] == [f"{model.graph.node[1].name} ({kind}) is nonlinear"]
    assert [node.output for node in after.graph.node] == [node.output for node in model.graph.node]


def bounded(bound):
    made = LevelNet(Net(seed=3))
    x = made.net.op("Relu", made.conv(made.input(), bits=6.0))
    x = made.net.op("Min", x, bound) if isinstance(bound, np.ndarray) else made.net.op("Clip", x, *bound, name="relu6")
    return made.net.build(made.conv(x, bits=0.0))


def test_relu6_stops_it_and_the_reason_is_told():
    result, _ = equalized(bounded((np.float32(0), np.float32(6))))
    assert not result.plan.scaled
    assert result.plan.unscaled[0].reason == "relu6 (Clip) is nonlinear, and its bounds are the same for all channels"


def test_a_bound_that_is_a_vector_is_scaled_too():
    model = bounded(np.full((C, 1, 1), 6, np.float32))
    result, after = equalized(model)
    assert result.plan.scaled
    assert same_bits(model, after, random_feeds(model))


def test_a_depthwise_layer_shares_with_both_neighbours():
    """Three layers, of one input and output channel each after the first: all get the cube root of the product."""
    made = LevelNet(Net(seed=5))
    x = made.same("Relu", made.conv(made.input()))
    x = made.same("Relu", made.conv(x, groups=C, kernel=3))
    model = made.net.build(made.conv(x, bits=0.0))
    names = list(made.layers)
    before = weights(model)
    _, after = equalized(model, exact=True)
    behind = weights(after)
    ranges = [
        np.abs(w).max(axis=axes)
        for w, axes in zip((before[n] for n in names), ((1, 2, 3), (1, 2, 3), (0, 2, 3)), strict=True)
    ]
    wanted = np.cbrt(np.prod(ranges, axis=0))
    for name, axes in zip(names, ((1, 2, 3), (1, 2, 3), (0, 2, 3)), strict=True):
        np.testing.assert_allclose(np.abs(behind[name]).max(axis=axes), wanted, rtol=0.03)


def residual():
    made = LevelNet(Net(seed=6))
    stream = made.conv(made.input())
    for _ in range(2):
        inner = made.same("Relu", made.conv(made.same("Relu", stream)))
        stream = made.same("Add", stream, made.conv(inner, kernel=3))
    return made, made.net.build(made.conv(stream, bits=0.0))


def test_a_residual_stream_has_one_scale_for_all_its_members():
    made, model = residual()
    result, after = equalized(model)
    assert same_bits(model, after, random_feeds(model))
    assert all(np.abs(bits).max() <= 1 for bits in imbalances(made, after, set()).values())
    before, behind = weights(model), weights(after)
    # The convolution that begins the stream reads the model's input, which has no scale.
    first = next(iter(made.layers))
    scale = (behind[first] / before[first])[:, 0, 0, 0]
    assert len(set(scale)) > 1
    feeds = random_feeds(model)
    stream = made.root(made.layers[first][1])
    tensors = [tensor for tensor in result.plan.changed if made.root(tensor) == stream]
    assert len(tensors) == 7  # the first convolution, two ReLUs, the ends of two branches, two sums
    for tensor in tensors:
        a, b = observed(model, tensor, feeds), observed(after, result.plan.changed[tensor], feeds)
        np.testing.assert_array_equal(b, a * scale[None, :, None, None])


def observed(model, tensor, feeds):
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return run(onnx.shape_inference.infer_shapes(shown), feeds)[0]


def test_a_stream_that_one_convolution_reads_and_writes():
    made = LevelNet(Net(seed=7))
    x = made.conv(made.input())
    x = made.same("Add", x, made.conv(x, kernel=3))
    model = made.net.build(made.conv(x, bits=0.0))
    _, after = equalized(model, branches=False)
    assert same_bits(model, after, random_feeds(model))
    assert all(np.abs(bits).max() <= 1 for bits in imbalances(made, after, set()).values())


def test_an_output_of_the_model_keeps_its_scale():
    made = LevelNet(Net(seed=8))
    x = made.same("Relu", made.conv(made.input()))
    made.net.output(x)
    model = made.net.build(made.conv(x, bits=0.0))
    result, after = equalized(model)
    assert not result.plan.scaled
    assert result.plan.unscaled[0].reason == f"{x} is the model's output"
    assert same_bits(model, after, random_feeds(model))


def test_a_gate_lets_the_gated_tensor_be_scaled():
    """Squeeze and excitation: what a sigmoid puts out has no scale, so the product has that of the other factor."""
    made = LevelNet(Net(seed=9))
    x = made.same("Relu", made.conv(made.input()))
    gate = made.net.op("Sigmoid", made.conv(made.net.op("GlobalAveragePool", x), bits=0.0))
    model = made.net.build(made.conv(made.net.op("Mul", x, gate), bits=0.0))
    result, after = equalized(model)
    assert result.plan.scaled
    assert same_bits(model, after, random_feeds(model))


def test_gemm_behind_flatten_takes_the_scale_of_every_pixel():
    made = LevelNet(Net(seed=10))
    x = made.net.op("Flatten", made.net.op("Relu", made.conv(made.input())))
    model = made.net.build(made.net.op("Gemm", x, made.net.draw(C * 36, 5), made.net.draw(5)))
    result, after = equalized(model)
    assert result.plan.scaled
    assert same_bits(model, after, random_feeds(model))


def test_a_transposed_convolution_with_groups():
    net = Net(seed=11)
    x = net.input(1, 4, 5, 5)
    x = net.op("Relu", net.op("ConvTranspose", x, net.draw(4, 3, 2, 2) * np.exp2(net.draw(4, 3, 1, 1) * 2), group=2))
    model = net.build(net.op("Conv", x, net.draw(2, 6, 1, 1)))
    result, after = equalized(model)
    assert result.plan.scaled
    assert same_bits(model, after, random_feeds(model))


def test_the_bias_of_a_dead_channel_does_not_grow_without_bound():
    """A channel with next to no weights: levelled by them alone, its bias would be ten thousand times as large."""
    net = Net(seed=12)
    weight = net.draw(C, C, 1, 1)
    weight[0] *= np.float32(1e-10)
    bias = np.full(C, 0.5, np.float32)
    x = net.op("Conv", net.input(1, C, 3, 3), weight, bias, name="conv")
    model = net.build(net.op("Conv", net.op("Relu", x), net.draw(C, C, 1, 1)))
    _, after = equalized(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    node = next(node for node in after.graph.node if node.name == "conv")
    assert np.abs(stored[node.input[2]]).max() < 64
    assert same_bits(model, after, random_feeds(model))


def test_equalising_twice_changes_nothing():
    for made, model in (pair(), residual()):
        for exact in (False, True):
            _, once = equalized(model, exact=exact)
            again, twice = equalized(once, exact=exact)
            assert not again.plan.scaled
            before, behind = weights(once), weights(twice)
            assert all(np.array_equal(before[name], behind[name]) for name in made.layers)


def test_exact_scales_level_better_and_change_outputs_by_rounding_alone():
    made, model = residual()
    _, after = equalized(model, exact=True)
    feeds = random_feeds(model)
    assert_close(run(model, feeds), run(after, feeds))
    assert max(np.abs(bits).max() for bits in imbalances(made, after, set()).values()) < 0.05


def test_bn_are_folded_first():
    net = Net(seed=13)
    x = net.op("Conv", net.input(1, C, 5, 5), net.draw(C, C, 3, 3), name="conv")
    x = net.op("Relu", net.exact_bn(x, [64.0, 1.0, 0.25, 8.0], [0.0, 1.0, 2.0, 3.0]))
    model = net.build(net.op("Conv", x, net.draw(C, C, 1, 1), name="reader"))
    result, after = equalized(model)
    assert [step.type for step in result.folding.steps] == ["BatchNormalization"]
    assert result.plan.scaled
    assert {node.op_type for node in after.graph.node} == {"Conv", "Relu"}
    folded = bnfold.fold(model).model.to_proto()
    assert same_bits(folded, after, random_feeds(model))


def test_a_model_that_is_quantised_stays_untouched():
    net = Net(seed=14)
    integers = net.const(net.rng.integers(-127, 127, (C, C, 1, 1)), dtype=np.int8)
    weight = net.op("DequantizeLinear", integers, np.float32(0.01), np.int8(0), name="dequantize")
    x = net.bn(net.op("Conv", net.input(1, C, 3, 3), weight), C)
    model = net.build(net.op("Conv", net.op("Relu", x), net.draw(C, C, 1, 1)))
    result, after = equalized(model)
    assert result.plan.notes == (
        "the model is quantised already (dequantize): its scales are fixed, so it stays as it is",
    )
    assert not result.folding.steps
    assert not result.plan.scaled
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in model.graph.node]


def test_the_body_of_a_branch_is_equalised_too():
    import onnx
    from onnx import helper

    net = Net(seed=15)
    x, condition = net.input(1, C, 4, 4), net.input(name="condition", dtype=bool)

    def body(prefix):
        inner = Net(seed=16)
        inner.prefix = prefix
        y = inner.op("Relu", inner.op("Conv", x, unlevel(inner, C, C, 1, 1)))
        inner.output(inner.op("Conv", y, inner.draw(C, C, 1, 1)), shape=(1, C, 4, 4))
        return inner.graph(prefix)

    y = net.op("If", condition, then_branch=body("then"), else_branch=body("else"))
    net.output(y, shape=(1, C, 4, 4))
    model = net.build()
    result, after = equalized(model)
    onnx.checker.check_model(after)
    assert len(result.plan.scaled) == 4
    assert {layer.scope for layer in result.plan.layers} == {
        f"{model.graph.node[0].name}/{k}_branch" for k in ("then", "else")
    }
    assert helper.printable_graph(after.graph)
    for value in (True, False):
        assert same_bits(model, after, {**random_feeds(model), "condition": np.array(value)})


def test_padding_does_not_matter_to_a_scale():
    made, model = pair()
    assert any(attribute.ints[:] == SAME for attribute in model.graph.node[0].attribute if attribute.name == "pads")
    assert equalized(model)[0].plan.scaled
    assert made.layers


def test_work_grows_like_the_network():
    work = []
    for layers in (20, 80):
        made = LevelNet(Net(seed=5))
        x = made.input()
        for _ in range(layers):
            x = made.same("Relu", made.conv(x))
        graph = load(made.net.build(x)).graph
        work.append(lines_of(lambda graph=graph: equalize_graph(graph)) / layers)
    assert work[1] < 1.5 * work[0], f"{work[0]:.0f} executed lines a layer became {work[1]:.0f}"
