"""What an operation of ``keras.ops`` that was called on tensors is to the graph: the attributes of its operator.

Axes are counted from the left. ``axes`` are those that a reduction takes away, or that come or go with size 1;
``perm`` says of which input axis each axis of the output is made. ``places`` of ``ops.GetItem`` has an entry for each
axis of the output: the input axis that is taken whole, or None for a part of one and for a new one. ``activation`` is
the name that Keras gives the same function among its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnfold.formats.keras import topology

#: Operations that are an activation under another name.
ACTIVATIONS: Mapping[str, str] = {
    "Elu": "elu",
    "Gelu": "gelu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LeakyRelu": "leaky_relu",
    "LogSoftmax": "log_softmax",
    "Relu": "relu",
    "Relu6": "relu6",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}


def operation_attributes(node: Any) -> dict[str, Any]:
    """The attributes of the call of an operation; none of those that are not known here."""
    operation, tensors = node.operation, node.input_tensors
    kind = type(operation).__name__
    if kind in ACTIVATIONS:
        return {"activation": ACTIVATIONS[kind]}
    found = _ATTRIBUTES.get(kind)
    return found(operation, node, len(tensors[0].shape)) if found is not None and tensors else {}


def _permutation(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    told = np.empty(tuple(range(1, rank + 1)), np.bool_)
    if hasattr(operation, "axes"):
        moved = np.transpose(told, operation.axes)
    elif hasattr(operation, "axis1"):
        moved = np.swapaxes(told, operation.axis1, operation.axis2)
    else:
        moved = np.moveaxis(told, operation.source, operation.destination)
    return {"perm": tuple(size - 1 for size in moved.shape)}


def _reduction(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    axes = range(rank) if operation.axis is None else _listed(operation.axis)
    return {"axes": tuple(axis % rank for axis in axes), "keepdims": int(operation.keepdims)}


def _extreme(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    return {**_reduction(operation, node, rank), "initial": getattr(operation, "initial", None)}


def _squeezed(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    if operation.axis is None:
        return {"axes": tuple(axis for axis, size in enumerate(node.input_tensors[0].shape) if size == 1)}
    return {"axes": tuple(axis % rank for axis in _listed(operation.axis))}


def _expanded(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    axes = _listed(operation.axis)
    return {"axes": tuple(axis % (rank + len(axes)) for axis in axes)}


def _along(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    return {"axis": operation.axis % rank}


def _taken(operation: Any, node: Any, rank: int) -> dict[str, Any]:
    arguments = topology.operands(node)
    keys = arguments[1] if len(arguments) == 2 else None
    keys = list(keys) if isinstance(keys, tuple | list) else [keys]
    if any(not isinstance(key, int | slice) and key not in (None, Ellipsis) for key in keys):
        return {}
    eaten = sum(isinstance(key, int | slice) for key in keys)
    at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys[at : at + 1] = [slice(None)] * (rank - eaten)
    places: list[int | None] = []
    axis = 0
    for key in keys:
        if isinstance(key, slice):
            places.append(axis if key == slice(None) else None)
        elif key is None:
            places.append(None)
        axis += key is not None
    return {"places": tuple(places)}


def _listed(axis: Any) -> list[int]:
    return [axis] if isinstance(axis, int) else list(axis)


_ATTRIBUTES: Mapping[str, Callable[[Any, Any, int], dict[str, Any]]] = {
    "Transpose": _permutation,
    "Swapaxes": _permutation,
    "Moveaxis": _permutation,
    "Mean": _reduction,
    "Sum": _reduction,
    "Max": _extreme,
    "Min": _extreme,
    "Squeeze": _squeezed,
    "ExpandDims": _expanded,
    "Concatenate": _along,
    "Split": _along,
    "GetItem": _taken,
}
