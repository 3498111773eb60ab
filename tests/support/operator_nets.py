"""Six channels with an affine on either side of an operator that has no weights, and affines to ask its facts about."""

from __future__ import annotations

import numpy as np
from helpers import Net

from bnfold.affine import Affine

C = 6

#: Of a tensor with C channels.
ALONG = Affine.of(np.arange(1.0, C + 1), 1.0, 1)
UNIFORM = Affine.of(2.0, 1.0, None)


def conv(net: Net, channels: int = C, size: int = 4) -> str:
    """What an affine behind it goes back into."""
    return net.op("Conv", net.input("N", 3, size, size), net.draw(channels, 3, 1, 1))


def ahead(net: Net, channels: int = C) -> str:
    """A BatchNormalization that can only go forward."""
    return net.bn(net.op("Tanh", net.input("N", channels, 4, 4)), channels)
