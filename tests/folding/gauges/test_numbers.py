"""How far a gauge may go: what statistics say about a stream, scales that multiply up, channels of one number."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, fold, random_feeds, run
from streams import C, activated, block, conv, deviations, gone, head, in_float64, stem, stream, together

N = np.nan
ALONE = np.array([N, 1.0, N, N, N, N])


def sized(mean: float, deviation: float, gamma: float, beta: float) -> Net:
    """A stream whose middle BN says of channel 1 of its input that it has this mean and deviation."""
    net = Net(seed=4)
    x = stem(net)
    x = net.op("Add", x, block(net, x, "bn0"))
    vectors = [net.positive(C), net.draw(C), net.draw(C), net.positive(C)]
    for vector, value in zip(vectors, (gamma, beta, mean, deviation**2), strict=True):
        vector[1] = value
    norm = net.op("BatchNormalization", x, *vectors, name="middle", epsilon=0.0)
    x = net.op("Add", x, conv(net, net.op("Relu", norm)))
    return head(net, x)


def growth(mean: float, deviation: float, gamma: float, beta: float) -> float:
    """How much larger a normal sample of that mean and deviation is once it is shifted: measured, not derived."""
    sample = mean + deviation * np.random.default_rng(0).standard_normal(200_000)
    scale = gamma / deviation
    shifted = sample + (beta - mean * scale) / scale
    return float(np.sqrt(np.mean(shifted**2) / np.mean(sample**2)))


@pytest.mark.parametrize(
    ("mean", "deviation", "gamma", "beta", "goes"),
    [
        (0.0, 1.0, 1.0, 14.0, True),
        (0.0, 1.0, 1.0, 18.0, False),
        (0.0, 1.0, 0.1, -1.4, True),
        (0.0, 1.0, 0.1, -1.8, False),
        (0.0, 100.0, 1.0, 14.0, True),
        (0.0, 0.01, 1.0, 18.0, False),
        (30.0, 1.0, 1.0, 400.0, True),
        (30.0, 1.0, 1.0, 600.0, False),
        (1000.0, 1.0, 1.0, 0.0, True),
        (0.0, 1.0, -1.0, 18.0, False),
    ],
)
def test_a_stream_may_become_sixteen_times_as_large_and_no_larger(mean, deviation, gamma, beta, goes):
    assert (growth(mean, deviation, gamma, beta) < 16) == goes
    folded = fold(sized(mean, deviation, gamma, beta))
    assert ("middle" in together(folded)) != goes
    if not goes:
        assert "at the cost of its precision" in together(folded)["middle"]
        assert "channel 1" in together(folded)["middle"]


def test_a_gamma_of_one_millionth_costs_no_precision_and_no_other_bn():
    folded = fold(stream({}, {"gamma": 1e-6 * ALONE}, {}))
    assert set(together(folded)) == {"bn1"}
    feeds = random_feeds(folded.before)
    exact = in_float64(folded.before, feeds)
    before, after = (deviations(exact, run(model, feeds)) for model in (folded.before, folded.after))
    assert after < 8 * before + 1e-6


@pytest.mark.parametrize(("gamma", "beta", "goes"), [(1e-12, 1.0, True), (1e-9, 1.0, False), (1e-12, 1e-4, False)])
def test_a_gamma_that_moves_nothing_makes_a_channel_of_one_number(gamma, beta, goes):
    made = {"gamma": gamma * ALONE, "beta": beta * ALONE, "kernel": 1}
    assert ("bn1" in together(fold(stream({}, made, {})))) != goes


@pytest.mark.parametrize("act", ["Relu", "LeakyRelu", "Tanh", "Sigmoid", "Elu", "HardSwish", "Softplus"])
def test_a_channel_of_scale_zero_goes_through_any_activation_into_the_weights(act):
    net = Net()
    x = net.op("Tanh", net.input("N", C, 4, 4))
    scale = [1.0] * C
    scale[2] = 0.0
    shift = [0.0] * C
    shift[2] = -0.7
    y = net.op(act, net.exact_bn(x, scale, shift))
    folded = gone(net.build(conv(net, y)), "BatchNormalization", "Mul", "Add")
    assert not folded.constant(folded.node("Conv").input[1])[:, 2].any()


def test_a_channel_of_scale_zero_demands_nothing_of_the_stream():
    gone(stream({}, {"gamma": 0 * ALONE, "kernel": 1}, {}))


@pytest.mark.parametrize(("beta", "goes"), [(-1.0, True), (1.0, False)])
def test_a_padded_reader_takes_only_the_number_zero(beta, goes):
    folded = fold(stream({}, {"gamma": 0 * ALONE, "beta": beta * ALONE}, {}))
    assert ("bn1" in together(folded)) != goes
    if not goes:
        assert "pads with zeros" in together(folded)["bn1"]


def test_scales_that_multiply_up_along_a_stream_stay_in_the_range_of_the_weights():
    """Every block multiplies the stream by 1000 and its branch divides again: 30 of them leave float32 by far."""
    net = Net()
    x = stem(net)
    for number in range(30):
        norm = net.exact_bn(x, [1000.0] * C, [1.0] * C, name=f"bn{number}")
        x = net.op("Mul", net.op("Add", norm, conv(net, net.op("Relu", x))), 1e-3 * np.ones((C, 1, 1), np.float32))
    folded = fold(head(net, x), slack=5.0)
    for tensor in folded.after.graph.initializer:
        values = folded.constant(tensor.name)
        assert np.isfinite(values).all() or values.dtype.kind != "f"


def test_half_precision_keeps_to_its_own_range():
    net = Net(dtype=np.float16)
    x = conv(net, net.input("N", 3, 4, 4), width=3)
    for number in range(2):
        x = net.op("Add", x, conv(net, activated(net, x, f"bn{number}")))
    gone(net.build(conv(net, x)))
