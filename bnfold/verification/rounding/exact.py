"""A model evaluated by onnx's reference implementation, in float64 if wanted: slow, for small models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.feeds.hints import graphs
from bnfold.verification.runtime.onnx_file import OnnxFile

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

#: TensorProto's numbers for float32, float16 and bfloat16, and for float64.
_SHORT = (1, 10, 16)
_DOUBLE = 11
#: What the reference implementation raises on operators and cases that it does not cover.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class NotEvaluatedError(Exception):
    """The reference implementation cannot evaluate the model."""


class ReferenceModel:
    """The model in onnx's reference implementation, in its own precision or ``wide``: in float64 throughout."""

    def __init__(self, model: OnnxFile, wide: bool, tensors: Sequence[str] = ()) -> None:
        """``tensors`` inside are returned as well. Raises NotEvaluatedError if an operator is not known."""
        from onnx.reference import ReferenceEvaluator

        proto = model.load(external=True)
        for name in tensors:
            proto.graph.output.add(name=name)
        self._wide = wide
        try:
            self._evaluator = ReferenceEvaluator(widened(proto) if wide else proto)
        except _FAILURES as error:
            raise NotEvaluatedError(str(error)) from error

    def run(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs that are arrays, by name. Raises NotEvaluatedError."""
        values = {name: _wide_array(value) for name, value in feed.items()} if self._wide else dict(feed)
        try:
            with np.errstate(all="ignore"):
                outputs = self._evaluator.run(None, values)
        except _FAILURES as error:
            raise NotEvaluatedError(str(error)) from error
        pairs = zip(self._evaluator.output_names, outputs, strict=True)
        return {name: np.asarray(value) for name, value in pairs if isinstance(value, (np.ndarray, np.generic))}


def widened(model: ModelProto) -> ModelProto:
    """``model``, changed in place: its short floats are doubles, in weights, types and attributes."""
    for graph in graphs(model.graph):
        _widen_graph(graph)
    for function in model.functions:
        for node in function.node:
            _widen_node(node)
    return model


def _widen_graph(graph: GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type in _SHORT:
            tensor.elem_type = _DOUBLE
    for initializer in graph.initializer:
        _widen_tensor(initializer)
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in _SHORT:
            attribute.i = _DOUBLE
        elif attribute.HasField("t"):
            _widen_tensor(attribute.t)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            _as_tensor(attribute)


def _as_tensor(attribute: AttributeProto) -> None:
    """A Constant's float attribute as a float64 tensor: the attribute itself can only hold float32."""
    from onnx import helper, numpy_helper

    values = np.asarray(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
    attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def _widen_tensor(tensor: TensorProto) -> None:
    from onnx import numpy_helper

    if tensor.data_type in _SHORT:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _wide_array(value: Any) -> Any:
    short = isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")
    return value.astype(np.float64) if short else value
