"""Whatever the graph: equalised it computes the same, twice is once, and no ratio of ranges gets much worse."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, random_feeds
from level_nets import C, LevelNet, equalized, imbalances, same_bits
from onnx import ModelProto

#: With a bias of this size on some layers it also says how far scales may rise.
BIAS = 0.5


def random_net(seed: int, *, bias: float) -> tuple[LevelNet, ModelProto, set[str]]:
    """Convolutions, full, grouped and depthwise, residual streams, pools, and now and then a second output."""
    made = LevelNet(Net(seed=seed))
    rng, x = made.net.rng, made.input()
    tensors = [made.conv(x, bias=bias)]
    for _ in range(rng.integers(2, 9)):
        x = tensors[rng.integers(max(0, len(tensors) - 3), len(tensors))]
        kind = rng.choice(["conv", "conv", "depthwise", "grouped", "Relu", "MaxPool", "Add"])
        if kind == "Add":
            tensors.append(made.same("Add", x, tensors[rng.integers(len(tensors))]))
        elif kind == "MaxPool":
            tensors.append(made.same(kind, x, kernel_shape=[3, 3], pads=[1] * 4))
        elif kind == "Relu":
            tensors.append(made.same(kind, x))
        else:
            groups = {"conv": 1, "grouped": 2, "depthwise": C}[kind]
            tensors.append(made.conv(x, groups=groups, kernel=int(rng.choice([1, 3])), bias=bias * rng.integers(2)))
    ends = {"x", made.conv(tensors[-1], bits=0.0)}
    if rng.integers(3) == 0:
        ends.add(tensors[rng.integers(len(tensors))])
    return made, made.net.build(*sorted(ends - {"x"})), ends


@pytest.mark.parametrize("bias", [0.0, BIAS])
@pytest.mark.parametrize("batch", range(4))
def test_random_streams(batch, bias):
    scaled = 0
    for seed in range(batch * 15, batch * 15 + 15):
        made, model, ends = random_net(seed, bias=bias)
        result, after = equalized(model, branches=False)
        scaled += bool(result.plan.scaled)
        assert same_bits(model, after, random_feeds(model, seed=seed))
        again, _ = equalized(after, branches=False)
        assert not again.plan.scaled
        used = {node.name for node in after.graph.node}
        made.layers = {name: pair for name, pair in made.layers.items() if name in used}
        before, behind = imbalances(made, model, ends), imbalances(made, after, ends)
        for tensor, bits in behind.items():
            old = np.abs(before[tensor])
            assert (np.abs(bits) <= np.maximum(old, 0.0) + 1 + 1e-6).all()
            if not bias:
                assert (np.abs(bits) <= 1 + 1e-6).all()
    assert scaled > 10
