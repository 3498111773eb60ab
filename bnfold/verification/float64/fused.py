"""Operators that onnxruntime's optimiser writes in place of several of ONNX's own, in its domain ``com.microsoft``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import OPERATORS, Call, NotEvaluatedError, operator, single

_DOMAIN = "com.microsoft"
#: The attributes of an activation, in the order in which a FusedConv numbers them.
_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max"), "Elu": ("alpha",)}


def _plain(kind: str, *inputs: Any, version: int = 13, **attributes: Any) -> Any:
    """One of ONNX's own operators; ``version`` is that of its operator set."""
    if ("", kind) not in OPERATORS:
        raise NotEvaluatedError(f"{kind} is not known here")
    return OPERATORS["", kind](Call(kind, "", version, inputs, ("",), attributes))


def _activated(y: Array, kind: str, values: list[float]) -> Any:
    """``y`` behind the activation that a fused operator names, with its parameters."""
    if not kind:
        return y
    attributes = dict(zip(_PARAMETERS.get(kind, ()), values, strict=False))
    return _plain(kind, y, version=6, **attributes)  # Clip's bounds were attributes then


@operator("FusedConv", domain=_DOMAIN)
def _conv(call: Call) -> Any:
    y = _plain("Conv", *call.inputs[:3], **call.attributes)
    y = y if call.get(3) is None else y + call.get(3)
    return _activated(y, call.attribute("activation", ""), list(call.attribute("activation_params", ())))


@operator("FusedGemm", domain=_DOMAIN)
def _gemm(call: Call) -> Any:
    kind = call.attribute("activation", "")
    given = [call.attribute(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    y = _plain("Gemm", *call.inputs, **call.attributes)
    return _activated(y, kind, [value for value in given if value is not None])


@operator("FusedMatMul", domain=_DOMAIN)
def _matmul(call: Call) -> Any:
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        raise NotEvaluatedError("com.microsoft.FusedMatMul with transposed batches is not known here")
    operands = [
        np.swapaxes(value, -1, -2) if call.attribute(name, 0) and value.ndim > 1 else value
        for value, name in zip(call.inputs[:2], ("transA", "transB"), strict=True)
    ]
    return call.attribute("alpha", 1.0) * np.matmul(*operands)


@operator("Gelu", domain=_DOMAIN)
def _gelu(call: Call) -> Any:
    return _plain("Gelu", call.inputs[0], version=20)


@operator("BiasGelu", domain=_DOMAIN)
def _bias_gelu(call: Call) -> Any:
    return _plain("Gelu", call.inputs[0] + call.inputs[1], version=20)


@operator("FastGelu", domain=_DOMAIN)
def _fast_gelu(call: Call) -> Any:
    x = call.inputs[0] if call.get(1) is None else call.inputs[0] + call.get(1)
    return _plain("Gelu", x, version=20, approximate="tanh")


@operator("QuickGelu", domain=_DOMAIN)
def _quick_gelu(call: Call) -> Any:
    x = call.inputs[0]
    return x * _plain("Sigmoid", call.attribute("alpha", single(1.702)) * x)


@operator("SkipLayerNormalization", domain=_DOMAIN)
def _skip_layer(call: Call) -> Any:
    """Of the sum of two tensors and, if there is one, a bias; the sum is the fourth output."""
    x, skip, gamma, beta, bias = (call.get(slot) for slot in range(5))
    total = x + skip if bias is None else x + skip + bias
    inner = replace(call, op_type="LayerNormalization", domain="", version=17, inputs=[total, gamma, beta])
    inner = replace(inner, attributes={"epsilon": call.attribute("epsilon", single(1e-12))})
    return (*OPERATORS["", "LayerNormalization"](inner), total)
