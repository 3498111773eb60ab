"""Models in float16 from anywhere: the second is a fold of the first, or both are conversions of one in float32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from verification_models import model, verify

node = helper.make_node
CHANNELS = 12


def pair(seed, inputs, *, converted, factor=1.0):
    """A convolution with a BN behind it, and with the BN in its weights, of which one channel is multiplied.

    ``converted``: both were rounded from float32; otherwise the second was computed from what the first holds.
    """
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((CHANNELS, inputs, 3, 3)) / np.sqrt(9 * inputs)
    scale, variance = rng.uniform(0.5, 1.5, (2, CHANNELS))
    shift, mean = rng.standard_normal((2, CHANNELS))
    parts = [kernel, scale, shift, mean, variance]
    halves = [part.astype(np.float16) for part in parts]
    if not converted:
        kernel, scale, shift, mean, variance = (half.astype(np.float64) for half in halves)
    total = scale / np.sqrt(variance + np.float32(1e-3))
    folded = kernel * total.reshape(-1, 1, 1, 1)
    folded[3] *= factor
    kinds = {"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16}
    shape = {"x": ["N", inputs, 8, 8]}
    apart = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *"sbmv"], ["y"], epsilon=1e-3)]
    first = model(apart, shape, ["y"], dict(zip("wsbmv", halves, strict=True)), types=kinds)
    weights = {"w": folded.astype(np.float16), "b": (shift - mean * total).astype(np.float16)}
    return first, model([node("Conv", ["x", "w", "b"], ["y"])], shape, ["y"], weights, types=kinds)


@pytest.mark.parametrize("inputs", [1, 4, 64])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("converted", [False, True])
def test_what_is_rounded_alike_is_equivalent(seed, inputs, converted):
    check = verify(*pair(seed, inputs, converted=converted))
    assert check.equivalent, check.sentence()


@pytest.mark.parametrize("inputs", [8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_a_thousandth_in_a_fold_of_rounded_weights_is_seen(seed, inputs):
    assert verify(*pair(seed, inputs, converted=False, factor=1.001)).verdict == "different"


@pytest.mark.parametrize("seed", range(3))
def test_of_two_conversions_one_channel_may_be_off_by_no_more_than_a_few_thousandths(seed):
    assert verify(*pair(seed, 16, converted=True, factor=1.005)).verdict == "different"
