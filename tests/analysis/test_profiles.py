"""Every BN channel by channel."""

from __future__ import annotations

import numpy as np
from onnx_nets import Net

import bnfold
from bnfold.analysis.profiles import HIGHEST, LOWEST, PER_DECADE, Profile, profiles


def profile_of(**parts: object) -> Profile:
    net = Net()
    x = net.norm("bn", net.conv("conv", net.start(), 3, 4), 4, epsilon=0.0, **parts)
    report = bnfold.analyze(net.build(net.act("relu", x)))
    assert report.pair is not None
    return profiles(report.pair)["bn"]


def bins(*values: float) -> list[int]:
    """Numpy's own histogram over the same edges."""
    edges = 10.0 ** np.linspace(LOWEST, HIGHEST, (HIGHEST - LOWEST) * PER_DECADE + 1)
    return [int(count) for count in np.histogram(values, edges)[0]]


def test_distributions() -> None:
    found = profile_of(gamma=[0.5, -3.0, 0.02, 700.0], variance=1.0)
    assert list(found.scale) == bins(0.5, 3.0, 0.02, 700.0)
    assert list(found.variance) == bins(1.0, 1.0, 1.0, 1.0)
    assert (found.channels, found.negative_scales, found.dead, found.collapsed) == (4, 1, 0, 0)


def test_what_no_bin_holds_is_counted_apart() -> None:
    found = profile_of(gamma=[0.0, 1.0, 1e9, 1.0], variance=1.0)
    assert sum(found.scale) == 3
    assert found.scale[-1] == 1
    assert found.dead >= 1


def test_ranges_fall_by_the_scale() -> None:
    net = Net()
    weight = net.const(np.array([1, 2, 4, 8], np.float32).reshape(4, 1, 1, 1))
    x = net.op("Conv", net.input(1, 1, 4, 4, name="x"), weight, name="conv")
    x = net.norm("bn", x, 4, gamma=[8.0, 4.0, 2.0, 2.0], variance=1.0, mean=0.0, epsilon=0.0)
    report = bnfold.analyze(net.build(net.act("relu", x)))
    assert report.pair is not None
    before, after = profiles(report.pair)["bn"].ranges
    assert before == (0.0, -1.0, -2.0, -3.0)
    assert after == (0.0, -1.0, -1.0, -1.0)
