"""What is rare is left to onnx's reference implementation, one node at a time, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.verification.float64.registry import Call, NotEvaluatedError, Value
from bnfold.verification.float64.tensors import REALS, widened

#: Those that draw at random, and those whose results hang on how a number is stored.
_REFUSED = frozenset({"Multinomial", "Bernoulli", "ImageDecoder", "BitCast"})
#: TensorProto.DOUBLE.
_DOUBLE = 11


def evaluate(call: Call) -> Value:
    """Raises NotEvaluatedError for an operator that is not known there either."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    name = f"{call.domain}.{call.op_type}" if call.domain else call.op_type
    if call.op_type in _REFUSED or call.domain not in ("", "ai.onnx.ml"):
        raise NotEvaluatedError(f"{name} is not known here")
    inputs = [f"i{slot}" if value is not None else "" for slot, value in enumerate(call.inputs)]
    outputs = [f"o{slot}" if output else "" for slot, output in enumerate(call.outputs)]
    attributes = {key: _attribute(key, value) for key, value in call.attributes.items()}
    node = helper.make_node(call.op_type, inputs, outputs, domain=call.domain, **attributes)
    named = [item for item in outputs if item]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_value_info(item, helper.make_tensor_type_proto(_DOUBLE, None)) for item in inputs if item],
        [helper.make_value_info(item, helper.make_tensor_type_proto(_DOUBLE, None)) for item in named],
    )
    versions = {"": 18 if call.domain else call.version, call.domain: call.version}
    try:
        evaluator = ReferenceEvaluator(graph, opsets=versions)
        results = evaluator.run(
            None, {f"i{slot}": value for slot, value in enumerate(call.inputs) if value is not None}
        )
    except Exception as error:
        # The reference implementation raises whatever it meets.
        words = str(error).splitlines()
        raise NotEvaluatedError(f"{name} cannot be evaluated: {words[0] if words else type(error).__name__}") from error
    found = dict(zip(named, results, strict=True))
    return tuple(widened(found.get(item)) for item in outputs)


def _attribute(name: str, value: Any) -> Any:
    from onnx import numpy_helper

    if name in ("to", "dtype", "output_datatype") and value in REALS:
        return _DOUBLE
    return numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
