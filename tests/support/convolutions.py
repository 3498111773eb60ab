"""Convolutions of random weights, and what they compute, written out tap by tap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from bnfold.operators.convolution import Convolution

FLOAT = np.dtype(np.float32)


def convolution(
    shape: Sequence[int],
    *,
    groups: int = 1,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    begins: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    sizes: Sequence[int | None] | None = None,
    bias: bool = True,
    seed: int = 0,
    dtype: np.dtype = FLOAT,
) -> Convolution:
    """A convolution of random weights; ``shape`` is [out, in / groups, *kernel]."""
    random = np.random.default_rng(seed)
    spatial = len(shape) - 2
    weight = random.normal(size=tuple(shape))
    dilations = tuple(dilations or (1,) * spatial)
    begins, ends = tuple(begins or (0,) * spatial), tuple(ends or (0,) * spatial)
    slack = tuple(b + e - d * (k - 1) for b, e, d, k in zip(begins, ends, dilations, shape[2:], strict=True))
    return Convolution(
        shape=tuple(shape), load=lambda: weight, groups=groups,
        bias=random.normal(size=shape[0]) if bias else np.zeros(shape[0]),
        strides=tuple(strides or (1,) * spatial), dilations=dilations, begins=begins, slack=slack,
        sizes=tuple(sizes or (None,) * spatial), dtype=dtype, macs=float(np.prod(shape)),
    )  # fmt: skip


def apply(conv: Convolution, x: np.ndarray) -> np.ndarray:
    """What a convolution makes of an image [in, *space], one tap after the other."""
    spatial = x.ndim - 1
    padded = np.pad(x, [(0, 0), *zip(conv.begins, conv.ends, strict=True)])
    weight = conv.load()
    assert weight.shape == conv.shape
    reach = [d * (k - 1) for d, k in zip(conv.dilations, conv.kernel, strict=True)]
    out = [(size - r - 1) // stride + 1 for size, r, stride in zip(padded.shape[1:], reach, conv.strides, strict=True)]
    assert min(out) > 0
    result = np.tile(conv.bias.reshape(-1, *[1] * spatial), (1, *out))
    rows, within = conv.shape[0] // conv.groups, conv.shape[1]
    for tap in product(*(range(size) for size in conv.kernel)):
        places = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, conv.dilations, out, conv.strides, strict=True)
        ]
        seen = padded[(slice(None), *places)]
        for group in range(conv.groups):
            mine, theirs = slice(group * rows, (group + 1) * rows), slice(group * within, (group + 1) * within)
            result[mine] += np.tensordot(weight[(mine, slice(None), *tap)], seen[theirs], axes=1)
    return result


def image(channels: int, *size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *size))
