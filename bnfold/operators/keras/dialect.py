"""What Keras writes for affines and sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op, Param
from bnfold.operators.answers import NewOp
from bnfold.operators.convolution import Convolution
from bnfold.operators.dialect import DATA, Dialect, Form
from bnfold.operators.keras.layer import DOMAIN, shape_of
from bnfold.operators.keras.linear_layers import conv_layer
from bnfold.refusal import Refusal


class KerasDialect(Dialect):
    """Layers of Keras 3."""

    name = "keras"
    domain = DOMAIN
    channel_axis = -1
    bias_argument = "use_bias"
    trains = True
    decomposes = False
    sums = ("Add", "Subtract", "Add")

    def form(self, graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
        """One BatchNormalization along the affine's axis, the last one for a uniform map."""
        if affine.grid:
            return Refusal("no-form", f"no Keras layer computes the map that {tensor} would need")
        shape = shape_of(graph, tensor)
        axis = len(shape) - 1 if affine.axis is None else affine.axis
        size = shape[axis]
        if not isinstance(size, int):
            return Refusal("unknown-shape", f"{tensor} has an unknown number of channels")
        vectors = {
            "gamma": np.broadcast_to(affine.scale, (size,)).copy(),
            "beta": np.broadcast_to(affine.shift, (size,)).copy(),
            "moving_mean": np.zeros(size),
            "moving_variance": np.ones(size),
        }
        kind = np.promote_types(dtype, np.float32)
        params = [Param.of(f"{tensor}/{name}", vector, kind) for name, vector in vectors.items()]
        return [NewOp("BatchNormalization", (DATA, *params), {"axis": axis, "epsilon": 0.0}, DOMAIN)]

    def convolution(self, data: str, convolution: Convolution, stem: str) -> NewOp | None:
        return conv_layer(data, convolution, stem)

    def can_add(self, graph: ModelGraph, tensor: str, rank: int | None) -> bool:
        """Layers read no constants, and do not broadcast."""
        return graph.constant(tensor) is None and graph.rank(tensor) == rank

    def batchnorm_code(self, layer: str, axis: int, rank: int | None, channels: int) -> str:
        model = "".join(f'.get_layer("{part}")' for part in layer.split("/"))
        return (
            f"x = keras.layers.BatchNormalization({'axis=1' if axis == 1 and rank != 2 else ''})(model{model}.output)"
        )

    def word(self, op: Op) -> str:
        """The function's name for an activation layer."""
        if op.type == "Activation":
            return str(op.attributes.get("activation", op.type))
        return op.type.removeprefix("ops.")


KERAS = KerasDialect()
