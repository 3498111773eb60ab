"""A live ``keras.Model`` as a ModelGraph: one operator a layer call, nested models flattened.

What an operator's inputs and attributes are stands in :mod:`bnfold.formats.keras.layers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from bnfold.errors import ModelFileError
from bnfold.formats.keras import masks, topology
from bnfold.formats.keras.layers import (
    BINARY_OPERATIONS,
    Spec,
    activation_name,
    attributes_of,
    contained_types,
    spec_of,
    type_of,
    weight,
)
from bnfold.formats.keras.operations import operation_attributes
from bnfold.formats.keras.reading import Call, Reading, Scope
from bnfold.graph import Array, ModelGraph, Op, Param, Tensor
from bnfold.operators.keras import KERAS
from bnfold.operators.keras.layer import DOMAIN


@dataclass(frozen=True, eq=False, slots=True)
class Variable:
    """The source of a Param: a Keras variable, read when asked for."""

    variable: Any

    def read(self) -> Array:
        return np.asarray(self.variable.numpy())

    def rows(self, start: int, stop: int) -> Array:
        # Only the slice is copied out of TensorFlow: weights are read in small blocks.
        return np.asarray(getattr(self.variable, "value", self.variable)[start:stop])


def read(keras: Any, model: Any, name: str, *, open_steps: bool = True) -> Reading:
    """Read a model; ``name`` is how messages call it. Raises ModelFileError for one without a graph of layers.

    With ``open_steps`` what a TimeDistributed holds is read as well, between an operator that takes the steps apart and
    one that puts them together.
    """
    network = topology.functional(keras, model)
    if network is None and isinstance(model, keras.Sequential):
        raise ModelFileError(f"{name} does not know its input shape yet: build the model, or call it, before saving it")
    if network is None:
        raise ModelFileError(
            f"{name} is a subclassed model, {type(model).__name__}: what it computes stands in Python code, not in a "
            'graph of layers; export it with model.export(path, format="onnx") and give bnfold that file'
        )
    reading = _Reader(keras, model, network, open_steps).reading
    masks.mark(keras, reading)
    return reading


class _Reader:
    def __init__(self, keras: Any, model: Any, network: Any, open_steps: bool) -> None:
        self.keras = keras
        self.open_steps = open_steps
        self.graph = ModelGraph(name=model.name, dialect=KERAS)
        self.reading = Reading(self.graph, Scope(model, network))
        self._paths: Counter[str] = Counter()
        self._origins: dict[int, str] = {}
        self._params: dict[int, str] = {}
        self._taken: set[str] = set()
        root = self.reading.root
        tensors = [
            Tensor(topology.input_layer(tensor).name, numpy_dtype(tensor.dtype), shape_of(tensor))
            for tensor in network.inputs
        ]
        self.graph.inputs = tensors
        root.inputs = tuple(tensor.name for tensor in tensors)
        self._read_scope(root, training=False)
        self.graph.outputs = self._distinct(root.outputs)
        self.graph.notes = tuple(
            f"{op.display} ({op.type}) holds BatchNormalization of its own, which is not looked into"
            for op in self.graph.ops()
            if "BatchNormalization" in op.attributes.get("contains", ())
        )

    def _read_scope(self, scope: Scope, training: bool) -> None:
        names = {id(tensor): name for tensor, name in zip(scope.network.inputs, scope.inputs, strict=True)}
        for node in topology.nodes(scope.network):
            inputs = tuple(names[id(tensor)] for tensor in node.input_tensors)
            nested = topology.functional(self.keras, node.operation)
            step = topology.step(self.keras, node) if self.open_steps else None
            trained = topology.asks_for_training(node) or training
            if nested is not None and _is_plain_call(self.keras, node, nested):
                inner = Scope(node.operation, nested, scope, node, self._path(scope, node.operation)[0], inputs)
                self._read_scope(inner, trained)
                outputs = inner.outputs
            elif step is not None:
                outputs = self._read_steps(scope, node, step, inputs, trained)
            else:
                outputs = self._read_call(scope, node, inputs, trained)
            names.update({id(tensor): name for tensor, name in zip(node.output_tensors, outputs, strict=True)})
        scope.outputs = tuple(names[id(tensor)] for tensor in scope.network.outputs)

    def _read_steps(
        self, scope: Scope, node: Any, step: topology.Step, inputs: Sequence[str], training: bool
    ) -> tuple[str, ...]:
        """What a TimeDistributed holds, in a scope of its own."""
        path, label = self._path(scope, node.operation)
        begin = self._unique(f"{path}/steps")
        self._put_border(begin, f"{label}/steps", "TimeDistributed.begin", inputs[0], step.input_tensors[0])
        network = topology.functional(self.keras, step.operation)
        inner = Scope(step.operation, network, scope, node, path, (begin,), wrapper=node.operation, ends=(begin, path))
        deeper = topology.step(self.keras, step)
        if network is not None:
            self._read_scope(inner, training)
        elif deeper is not None:
            inner.outputs = self._read_steps(inner, step, deeper, (begin,), training)
        else:
            inner.outputs = self._read_call(inner, step, (begin,), training)
        self._put_border(path, label, "TimeDistributed.end", inner.outputs[0], node.output_tensors[0])
        self.reading.borders |= {begin: inner, path: scope}
        return (path,)

    def _put_border(self, name: str, label: str, kind: str, source: str, made: Any) -> None:
        self.graph.declare(Tensor(name, numpy_dtype(made.dtype), shape_of(made)))
        self.graph.put(Op(name, kind, (source,), (name,), {}, domain=DOMAIN, label=label))

    def _path(self, scope: Scope, layer: Any) -> tuple[str, str]:
        """The name of a call, unique in the model, and how people call it."""
        path = f"{scope.path}/{layer.name}" if scope.path else layer.name
        self._paths[path] += 1
        count = self._paths[path]
        return (path, path) if count == 1 else (self._unique(f"{path}@{count}"), f"{path} (call {count})")

    def _unique(self, stem: str) -> str:
        name, count = stem, 1
        while name in self._taken or name in self.graph:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def _read_call(self, scope: Scope, node: Any, inputs: Sequence[str], training: bool) -> tuple[str, ...]:
        layer = node.operation
        spec = spec_of(self.keras, layer)
        path, label = self._path(scope, layer)
        origin = self._origins.setdefault(id(layer), path)
        outputs = tuple(path if index == 0 else f"{path}:{index}" for index in range(len(node.output_tensors)))
        activation = activation_name(self.keras, layer.activation) if spec and spec.fused else "linear"
        linear = (f"{path}/linear",) if activation != "linear" else outputs
        slots, positions = self._slots(node, spec, inputs, origin)
        attributes = self._attributes(node, spec, training)
        for name, tensor in zip(linear, node.output_tensors, strict=True):
            self.graph.declare(Tensor(name, numpy_dtype(tensor.dtype), shape_of(tensor)))
        self.graph.put(
            Op(path, type_of(self.keras, layer), slots, linear, attributes, domain=DOMAIN, label=label, origin=origin)
        )
        call = Call(scope, layer, node, path, f"{path}/activation" if linear != outputs else "", positions)
        self.reading.calls[path] = call
        if call.activation:
            self._read_activation(call, activation, linear[0], outputs[0], label, origin)
        return outputs

    def _read_activation(self, call: Call, activation: str, source: str, target: str, label: str, origin: str) -> None:
        kind = "Activation"
        attributes: dict[str, Any] = {"activation": activation}
        slots: tuple[str, ...] = (source,)
        fused = call.layer.activation
        if isinstance(fused, self.keras.layers.Layer):
            spec = spec_of(self.keras, fused)
            kind = type_of(self.keras, fused)
            attributes = attributes_of(fused, spec, len(call.node.output_tensors[0].shape)) if spec else {}
            slots = (source, *self._weights(fused, spec, f"{origin}/{fused.name}", 0))
        known = self.graph.tensor(source)
        self.graph.declare(Tensor(target, known.dtype, known.shape))
        self.graph.put(
            Op(
                call.activation,
                kind,
                slots,
                (target,),
                attributes,
                domain=DOMAIN,
                label=f"{label}/{activation}",
                origin=origin,
            )
        )
        self.reading.calls[call.activation] = call

    def _slots(
        self, node: Any, spec: Spec | None, inputs: Sequence[str], origin: str
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The operator's inputs, and which of them are the tensors of the call."""
        layer = node.operation
        if not isinstance(layer, self.keras.layers.Layer):
            return self._operands(node, inputs, origin)
        rank = len(node.input_tensors[0].shape) if node.input_tensors else 0
        weights = self._weights(layer, spec, origin, rank)
        if spec is not None and weights:
            # Further tensors, like a mask or an initial state, come last: the weights keep their slots.
            slots = (*inputs[:1], *weights, *inputs[1:])
            return slots, (0, *range(len(weights) + 1, len(slots)))
        return (*inputs, *weights), tuple(range(len(inputs)))

    def _weights(self, layer: Any, spec: Spec | None, origin: str, rank: int) -> tuple[str, ...]:
        if spec is None:
            return tuple(self._param(variable, layer, origin) for variable in layer.weights)
        values = {attribute: weight(layer, attribute) for attribute in spec.weights}
        return tuple(
            "" if value is None else self._param(value, layer, origin, attribute) for attribute, value in values.items()
        )

    def _param(self, value: Any, layer: Any, origin: str, attribute: str = "") -> str:
        """The name of a variable's Param, or of one for the fixed array a layer keeps under ``attribute``."""
        if id(value) in self._params:
            return self._params[id(value)]
        if not isinstance(value, self.keras.Variable):
            name = self._unique(f"{origin}/{attribute}")
            self.graph.params[name] = Param.of(name, np.asarray(value))
            return name
        own = attribute.replace("cell.", "").replace(".", "/")
        tail = own or value.path.removeprefix(f"{layer.name}/")
        name = self._unique(f"{origin}/{tail}")
        dtype = numpy_dtype(value.dtype)
        if dtype is None:
            raise ModelFileError(f"{name} has a dtype bnfold does not know: {value.dtype}")
        self._params[id(value)] = name
        self.graph.params[name] = Param(name, dtype, tuple(value.shape), Variable(value), value)
        return name

    def _operands(self, node: Any, inputs: Sequence[str], origin: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """A binary operation lists its constant operand as a param; any other only its tensors."""
        arguments = topology.operands(node)
        binary = type(node.operation).__name__ in BINARY_OPERATIONS and len(arguments) == 2
        if not binary or len(inputs) != 1 or node.arguments.kwargs:
            return tuple(inputs), tuple(range(len(inputs)))
        at = next(slot for slot, value in enumerate(arguments) if isinstance(value, self.keras.KerasTensor))
        dtype = numpy_dtype(node.output_tensors[0].dtype)
        name = self._unique(f"{origin}/constant")
        self.graph.params[name] = Param.of(name, np.asarray(arguments[1 - at], dtype))
        return ((inputs[0], name), (0,)) if at == 0 else ((name, inputs[0]), (1,))

    def _attributes(self, node: Any, spec: Spec | None, training: bool) -> dict[str, Any]:
        layer = node.operation
        attributes: dict[str, Any] = {}
        if spec is not None:
            rank = len(node.input_tensors[0].shape) if node.input_tensors else 0
            attributes = attributes_of(layer, spec, rank)
        elif not isinstance(layer, self.keras.layers.Layer):
            attributes = operation_attributes(node)
        kind = type_of(self.keras, layer)
        if kind == "Activation":
            attributes["activation"] = activation_name(self.keras, layer.activation)
        if kind == "MultiHeadAttention":
            attributes["tensors"] = topology.argument_names(self.keras, node)
        if training:
            attributes["training"] = True
        if getattr(layer, "compute_dtype", None) != getattr(layer, "variable_dtype", None):
            attributes["compute_dtype"] = layer.compute_dtype
        if spec is None or kind == "MultiHeadAttention":
            contained = contained_types(self.keras, layer)
            attributes |= {"contains": contained} if contained else {}
        return attributes

    def _distinct(self, outputs: Sequence[str]) -> list[str]:
        """Output names; a tensor that is returned twice, or is an input, goes through an Identity of its own."""
        names: list[str] = []
        for index, tensor in enumerate(outputs):
            if tensor in names or self.graph.is_input(tensor):
                name = self._unique(f"output_{index}")
                self.graph.declare(Tensor(name, self.graph.tensor(tensor).dtype, self.graph.tensor(tensor).shape))
                self.graph.put(Op(name, "Identity", (tensor,), (name,), domain=DOMAIN, label=name))
                tensor = name
            names.append(tensor)
        self.reading.root.outputs = tuple(names)
        return names


def _is_plain_call(keras: Any, node: Any, nested: Any) -> bool:
    """Is a nested model called on just its inputs, so that its layers can stand in for it?

    Keras adds or drops a last dimension of size 1 where an input's rank is off by one; such a call
    is left opaque, and so is one with a mask.
    """
    kwargs = node.arguments.kwargs
    others = [value for key, value in kwargs.items() if key != "training"]
    ranks = [len(tensor.shape) for tensor in node.input_tensors]
    return (
        not any(value is not None for value in keras.tree.flatten(others))
        and len(node.arguments.args) == 1
        and kwargs.get("training") in (None, True, False)
        and ranks == [len(tensor.shape) for tensor in nested.inputs]
    )


def shape_of(tensor: Any) -> tuple[int | None, ...]:
    """A KerasTensor's shape, sizes that are not known as None."""
    return tuple(None if size is None else int(size) for size in tensor.shape)


_EXTRA_DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "int4", "uint4")
}


def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """The numpy dtype of a Keras dtype; None for strings and what numpy does not have."""
    if name in _EXTRA_DTYPES:
        return _EXTRA_DTYPES[name]
    try:
        dtype: np.dtype[Any] = np.dtype(name)
    except TypeError:
        return None
    return dtype if dtype.kind in "fiub" else None
