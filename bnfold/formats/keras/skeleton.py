"""An ONNX model without its kernels: converted once by tf2onnx, the weights attached as they are when it is written.

tf2onnx copies every constant a dozen times. So the function it converts takes the kernels as arguments, next to
the model's inputs: which input of the ONNX graph stands for which Keras variable is known by its name. What
tf2onnx does with such an input before a linear operator reads it (another order of the axes, another dtype) is
done to the weight once. Everything else (biases, statistics, what a loop reads) is a constant when it is
converted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.formats.atomic import Sink, StagedFile
from bnfold.formats.onnx.payloads import Payloads
from bnfold.formats.onnx.wire import RAW_DATA, Payload
from bnfold.formats.onnx.writer import staged_model
from bnfold.graph import Array, Computed, Exact

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
#: How near a constant has to be to a vector for being it, as part of the size that this was rounded at.
_NEAR = 1e-5
#: TensorFlow's operations that may get a weight as an argument, with the slots it may stand in.
_READERS: Mapping[str, tuple[int, ...]] = {
    "BatchMatMulV2": (0, 1),
    "Conv2D": (1,),
    "Conv2DBackpropInput": (1,),
    "Conv3D": (1,),
    "Conv3DBackpropInputV2": (1,),
    "DepthwiseConv2dNative": (1,),
    "Einsum": (0, 1),
    "GatherV2": (0,),
    "MatMul": (0, 1),
}
#: TensorFlow's operations that may stand between a weight and its reader; the weight is their first input.
_TF_MOVES = {"Cast", "ExpandDims", "Identity", "Reshape", "Squeeze", "Transpose"}
#: Their counterparts in ONNX.
_MOVES = {"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def can_be_argument(tensor: Any) -> bool:
    """Do only operations read this tensor of a TensorFlow graph that tf2onnx converts alike for any input?"""
    return all(_can_read(operation, tensor) for operation in tensor.consumers())


def _can_read(operation: Any, tensor: Any) -> bool:
    slots = [slot for slot, value in enumerate(operation.inputs) if value is tensor]
    if operation.type in _TF_MOVES:
        return slots == [0] and can_be_argument(operation.outputs[0])
    return set(slots) <= set(_READERS.get(operation.type, ()))


@dataclass(frozen=True, eq=False, slots=True)
class Skeleton:
    """``model`` with ``weights``, Keras variables by name, among its inputs; ``constants`` are the other variables."""

    model: ModelProto
    weights: Mapping[str, Any]
    constants: Sequence[Any]
    digest: bytes

    @classmethod
    def of(cls, model: ModelProto, weights: Mapping[str, Any], constants: Sequence[Any]) -> Skeleton:
        return cls(model, weights, constants, _digest(constants))

    def is_current(self) -> bool:
        """Have the variables that are constants in it kept their values? The others are read when it is written."""
        return self.digest == _digest(self.constants)

    def unrounded(self, known: Mapping[str, Exact]) -> dict[str, Exact]:
        """Initializers of the staged file as they were before they were rounded, by name.

        ``known`` gives that for variables, by the :func:`fingerprint` of what they hold.
        """
        values, _ = self._moved()
        found: dict[str, Exact] = {}
        for name in values.names:
            exact = known.get(fingerprint(np.asarray(values.variable(name))))
            if exact is not None and not values.is_cast(name):
                found[name] = partial(values.array, name, exact)
        for tensor in self.model.graph.initializer:
            exact = known.get(fingerprint(numpy_helper.to_array(tensor)))
            if exact is not None:
                found[tensor.name] = partial(_shaped, exact, tuple(tensor.dims))
        return found

    def computed(self, known: Sequence[Computed]) -> dict[str, Computed]:
        """The float constants of the staged file that are no variable of Keras's, but made of some by TensorFlow.

        By name; ``known`` are vectors that TensorFlow may have made.
        """
        held = {fingerprint(np.asarray(variable)) for variable in self.constants}
        found = {}
        for name, tensor in _constants(self.model.graph):
            values = numpy_helper.to_array(tensor)
            if tensor.data_type not in _FLOATS or fingerprint(values) in held:
                continue
            wide = values.astype(np.float64)
            near = [(_distance(item, wide), index) for index, item in enumerate(known)]
            distance, index = min(near, default=(np.inf, 0))
            found[name] = Computed(np.abs(wide))
            exact = known[index].exact if distance <= _NEAR else None
            if exact is not None:
                found[name] = Computed(known[index].sizes.reshape(wide.shape), exact.reshape(wide.shape))
        return found

    def _moved(self) -> tuple[_Values, list[NodeProto]]:
        """The weights as they are attached, and the nodes that do more than to move one."""
        graph = self.model.graph
        values = _Values(self.weights, graph.initializer, self.model.opset_import)
        nodes = [node for node in graph.node if not values.take(node)]
        # No weight is read in a loop's body: one that a loop of TensorFlow's reads is a constant.
        read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        values.names = [name for name in values.names if name in read]
        return values, nodes

    @contextmanager
    def stage(self, path: Path, external_data: bool | None = None) -> Iterator[StagedFile]:
        """The whole model with the weights as they are now, as :func:`bnfold.formats.onnx.writer.staged_model`."""
        model = ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        values, nodes = self._moved()
        # What only moved a weight, a shape or an order of axes, is of no more use.
        moving, read = values.operands(), set(_read(nodes))
        constants = [tensor for tensor in graph.initializer if tensor.name not in moving or tensor.name in read]
        payloads = Payloads(os.urandom(8).hex(), [])
        for name in values.names:
            array = values.array(name)
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            header = TensorProto(name=name, data_type=dtype, dims=array.shape)
            payloads.put(header, _Weight(values, name, array.nbytes))
            constants.append(header)
        inputs = [value for value in graph.input if value.name not in self.weights]
        for field, kept in ((graph.node, nodes), (graph.input, inputs), (graph.initializer, constants)):
            kept = [type(item).FromString(item.SerializeToString()) for item in kept]
            del field[:]
            field.extend(kept)
        with staged_model(path, model, payloads, external_data=external_data) as staged:
            yield staged


class _Values:
    """The weights, and what nodes that only move them make of them, computed when asked for."""

    def __init__(self, weights: Mapping[str, Any], initializers: Iterable[TensorProto], opsets: Any) -> None:
        self._weights = weights
        self._constants = {tensor.name: tensor for tensor in initializers}
        self._opsets = opsets
        self._nodes: dict[str, NodeProto] = {}
        self.names = list(weights)

    def take(self, node: NodeProto) -> bool:
        """Note a node that does nothing but move a weight; False for any other."""
        first, *others = node.input or [""]
        known = first in self._weights or first in self._nodes
        if not known or node.op_type not in _MOVES or not all(name in self._constants for name in others):
            return False
        self._nodes[node.output[0]] = node
        self.names.append(node.output[0])
        return True

    def operands(self) -> set[str]:
        """The constants by which weights are moved."""
        return {name for node in self._nodes.values() for name in node.input[1:]}

    def variable(self, name: str) -> Any:
        """The Keras variable that is moved."""
        return self._weights[name] if name in self._weights else self.variable(self._nodes[name].input[0])

    def is_cast(self, name: str) -> bool:
        """Is it rounded on the way?"""
        node = self._nodes.get(name)
        return node is not None and (node.op_type == "Cast" or self.is_cast(node.input[0]))

    def array(self, name: str, exact: Exact | None = None) -> Array:
        """The values; with ``exact`` in place of what the variable holds."""
        if name in self._weights:
            return np.asarray(self._weights[name]) if exact is None else exact()
        node = self._nodes[name]
        first, *others = node.input
        feeds = {first: self.array(first, exact)}
        feeds |= {other: numpy_helper.to_array(self._constants[other]) for other in others}
        return np.asarray(_run(node, feeds, self._opsets))


def _distance(item: Computed, values: Array) -> float:
    """How far a constant is from a vector, as part of the size that this was rounded at."""
    if item.exact is None or item.exact.size != values.size:
        return float(np.inf)
    off = np.abs(item.exact - values.reshape(-1))
    return float(np.divide(off, item.sizes, out=np.where(off > 0, np.inf, 0.0), where=item.sizes > 0).max(initial=0.0))


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Constants by name, in subgraphs too."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and node.op_type == "Constant":
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from _constants(attribute.g)


def _read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """The tensors that nodes read, in their subgraphs too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g.node)
                yield from (value.name for value in attribute.g.output)


def _run(node: NodeProto, feeds: Mapping[str, Array], opsets: Any) -> Array:
    from onnx.reference import ReferenceEvaluator

    function = helper.make_function("bnfold", "Move", list(feeds), list(node.output), [node], opsets)
    (result,) = ReferenceEvaluator(function).run(None, dict(feeds), attributes={})
    return np.asarray(result)


class _Weight(Payload):
    """One weight, read when it is written."""

    __slots__ = ("length", "name", "values")
    field = RAW_DATA

    def __init__(self, values: _Values, name: str, length: int) -> None:
        self.values = values
        self.name = name
        self.length = length

    def __len__(self) -> int:
        return self.length

    def write(self, out: Sink) -> None:
        out.write(np.ascontiguousarray(self.values.array(self.name)).reshape(-1).view(np.uint8).data)


def _shaped(exact: Exact, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return exact().reshape(shape)


def fingerprint(values: Array) -> str:
    """The same for arrays of one dtype that hold the same in the same order, whatever their shapes."""
    digest = hashlib.blake2b(repr((values.dtype.str, values.size)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest(variables: Sequence[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for variable in variables:
        values = np.ascontiguousarray(np.asarray(variable))
        digest.update(repr((values.dtype.str, values.shape)).encode())
        digest.update(values.tobytes())
    return digest.digest()
