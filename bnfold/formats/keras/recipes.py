"""What a layer of a changed graph is made from: the original's configuration, what differs, and its weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnfold.formats.keras.assembly import LayerPart
from bnfold.formats.keras.layers import SPECS, Spec
from bnfold.formats.keras.reading import Reading
from bnfold.graph import ModelGraph, Op, Param


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """How to make one layer. Calls with equal ``key`` share it.

    ``layer`` is the original, None for a layer that folding added. ``changes`` are entries of its
    configuration, ``weights`` new values by :attr:`Spec.weights`.
    """

    key: tuple[Any, ...]
    type: str
    name: str
    layer: Any
    changes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Param] = field(default_factory=dict)

    @property
    def is_changed(self) -> bool:
        return bool(self.changes or self.weights)


def recipe(part: LayerPart, graph: ModelGraph, reading: Reading) -> Recipe:
    """The recipe for a layer's call."""
    op, call = part.op, part.call
    original = reading.graph.op(op.name) if call is not None else None
    if call is None or original is None or original.type != op.type or op.name == call.activation:
        return _new_recipe(part, graph)
    changes = _changed_attributes(op, original)
    weights = _changed_weights(op, original, graph, reading)
    spec = SPECS.get(op.type)
    if spec is not None:
        changes |= _weight_arguments(op, spec, graph, original)
    if spec is not None and spec.fused and part.activation is None and call.activation:
        changes["activation"] = "linear"
    digests = tuple((attribute, _digest(param)) for attribute, param in weights.items())
    key = ("layer", id(call.layer), part.prefix, repr(sorted(changes.items())), digests)
    return Recipe(key, op.type, _prefixed(part, call.layer.name), call.layer, changes, weights)


def _new_recipe(part: LayerPart, graph: ModelGraph) -> Recipe:
    op = part.op
    spec = SPECS.get(op.type, Spec())
    changes = {name: value for name, value in op.attributes.items() if name in (*spec.arguments, "activation")}
    weights = {
        attribute: graph.params[name]
        for attribute, name in zip(spec.weights, op.inputs[1:], strict=False)
        if name in graph.params
    }
    changes |= {
        argument: attribute in weights for attribute, argument in _SWITCHES.items() if attribute in spec.weights
    }
    call = part.call
    if call is not None and (part.activation is not None or op.type == "Activation"):
        changes["activation"] = call.layer.activation  # which may be a function without a name of Keras's
    # A layer's name is its user's; that of an operator may hold what TensorFlow takes for no name.
    own = call.layer.name if call is not None else op.origin.rpartition("/")[2]
    name = own or re.sub(r"[^\w.-]+", "_", op.name.rpartition("/")[2])
    if call is not None and op.name == call.activation:
        name = f"{name}_activation"
    return Recipe(_new_key(part, changes, weights), op.type, _prefixed(part, name), None, changes, weights)


def _new_key(part: LayerPart, changes: Mapping[str, Any], weights: Mapping[str, Param]) -> tuple[Any, ...]:
    """What is new for every call of one layer alike, its activation or something of one origin, is one layer too."""
    op, call = part.op, part.call
    if call is None and op.origin:
        shared: Any = op.origin
    elif call is not None and op.name == call.activation:
        shared = id(call.layer)
    else:
        return ("new", op.name)
    digests = tuple((attribute, _digest(param)) for attribute, param in weights.items())
    return ("new", shared, part.prefix, repr(sorted(changes.items())), digests)


def _prefixed(part: LayerPart, name: str) -> str:
    return f"{part.prefix}_{name}" if part.prefix else name


def _changed_attributes(op: Op, original: Op) -> dict[str, Any]:
    """The constructor's arguments that folding gave another value."""
    spec = SPECS.get(op.type)
    known = spec.arguments if spec is not None else ()
    return {
        name: value for name, value in op.attributes.items() if name in known and value != original.attributes.get(name)
    }


def _changed_weights(op: Op, original: Op, graph: ModelGraph, reading: Reading) -> dict[str, Param]:
    spec = SPECS.get(op.type)
    changed: dict[str, Param] = {}
    for slot, attribute in enumerate(spec.weights if spec is not None else (), start=1):
        param = graph.params.get(op.input(slot))
        if param is not None and param is not reading.graph.params.get(original.input(slot)):
            changed[attribute] = param
    return changed


#: Which argument says whether a layer has a weight.
_SWITCHES = {"gamma": "scale", "beta": "center", "bias": "use_bias"}


def _weight_arguments(op: Op, spec: Spec, graph: ModelGraph, original: Op) -> dict[str, Any]:
    """The constructor's arguments that follow from which weights there are now, and from their shapes."""
    present = {attribute: op.input(slot) for slot, attribute in enumerate(spec.weights, start=1)}
    before = {attribute: original.input(slot) for slot, attribute in enumerate(spec.weights, start=1)}
    arguments: dict[str, Any] = {}
    for attribute, argument in _SWITCHES.items():
        if attribute in present and bool(present[attribute]) != bool(before[attribute]):
            arguments[argument] = bool(present[attribute])
    if op.type == "EinsumDense":
        arguments.pop("use_bias", None)
        if present["bias"] and not op.attributes.get("bias_axes"):
            arguments["bias_axes"] = _bias_axes(op.attributes["equation"], graph.params[present["bias"]].shape)
    kernel = graph.params.get(present.get("kernel", ""))
    if kernel is not None and "Conv" in op.type and kernel.shape[:-2] != op.attributes.get("kernel_size"):
        arguments["kernel_size"] = kernel.shape[:-2]
    return arguments


def _bias_axes(equation: str, shape: tuple[int, ...]) -> str:
    """The labels of an EinsumDense's output along which a bias of that shape varies."""
    labels = equation.split("->")[1][-len(shape) :]
    return "".join(label for label, size in zip(labels, shape, strict=True) if size != 1) or labels[-1]


def _digest(param: Param) -> bytes:
    digest = hashlib.blake2b(repr((param.dtype.name, param.shape)).encode(), digest_size=16)
    for block in param.blocks():
        digest.update(block.tobytes())
    return digest.digest()
