"""Random graphs in every version and number format: opsets 7 to the newest, float16, bfloat16, mixed, quantised.

The rules of ``random_graphs`` write operators as opset 17 has them. :class:`VersionedNet` writes them as its own opset
has them; what an opset has not is not grown.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import random_graphs
from graph_choices import Choices
from helpers import Net
from onnx import ModelProto, helper
from random_graphs import RULES, Growth, Rule, apply_rule, grow, is_static
from rare_rules import RARE, SURROUNDINGS, flat_start

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
#: The first opset that has an operator, of those that opset 7 has not.
SINCE = {
    "CastLike": 15, "Clip": 7, "Einsum": 12, "Expand": 8, "LayerNormalization": 17, "Where": 9, "Resize": 11,
    "QuantizeLinear": 10, "DequantizeLinear": 10, "GroupNormalization": 21, "RMSNormalization": 23, "HardSwish": 14,
    "MeanVarianceNormalization": 9, "Gelu": 20, "Mish": 18, "Trilu": 14, "CumSum": 11, "ThresholdedRelu": 10,
    "Compress": 11, "GatherElements": 11, "ReverseSequence": 10, "CenterCropPad": 18, "TopK": 11, "GridSample": 16,
    "MatMulInteger": 10, "DynamicQuantizeLinear": 11, "ConstantOfShape": 9, "Scan": 11, "Loop": 11,
}  # fmt: skip
#: Operators that broadcast from this opset on only.
BROADCASTS = {"Sum": 8, "Mean": 8, "Max": 8, "Min": 8}
#: Operators whose axes, or the like, became an input in this opset: the attribute's name and its place.
INPUTS = {
    "Squeeze": (13, {"axes": 1}), "Unsqueeze": (13, {"axes": 1}), "ReduceSum": (13, {"axes": 1}),
    "ReduceMean": (18, {"axes": 1}), "ReduceMax": (18, {"axes": 1}), "Split": (13, {"split": 1}),
    "ReduceMin": (18, {"axes": 1}), "ReduceL1": (18, {"axes": 1}), "ReduceL2": (18, {"axes": 1}),
    "ReduceProd": (18, {"axes": 1}),
    "Slice": (10, {"starts": 1, "ends": 2, "axes": 3}), "Clip": (11, {"min": 1, "max": 2}),
    "Pad": (11, {"pads": 1, "value": 2}),
}  # fmt: skip


class NotInOpsetError(Exception):
    """The opset has no such operator, or not in this form."""


class VersionedNet(Net):
    """Writes what is called as in opset 17 in the form of its own opset. Raises NotInOpsetError."""

    def op(self, kind: str, *inputs: Any, **attrs: Any) -> Any:
        if self.opset < SINCE.get(kind, 0):
            raise NotInOpsetError(kind)
        if self.opset < BROADCASTS.get(kind, 0) and any(not isinstance(value, str) for value in inputs):
            raise NotInOpsetError(f"{kind} broadcasts")
        if kind in INPUTS:
            inputs, attrs = self._placed(kind, list(inputs), attrs)
        if self.opset < 11:
            self._check_old(kind, inputs, attrs)
        if kind == "Constant" and self.opset < 12 and "value" not in attrs:
            raise NotInOpsetError("Constant's numbers")
        if kind == "GRU" and self.opset >= 14:
            attrs.setdefault("layout", 0)
        return super().op(kind, *inputs, **attrs)

    def _placed(self, kind: str, inputs: list[Any], attrs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        opset, places = INPUTS[kind]
        if self.opset >= opset:
            for name, place in places.items():
                if name in attrs and place == len(inputs):
                    inputs.append(np.array(attrs.pop(name), np.int64))
            return inputs, attrs
        if kind == "Slice" and any(np.any(np.asarray(steps) != 1) for steps in inputs[4:]):
            raise NotInOpsetError("Slice's steps")
        for name, place in places.items():
            if place < len(inputs):
                value = inputs[place]
                if isinstance(value, str):
                    raise NotInOpsetError(f"{kind}'s {name} computed")
                attrs[name] = float(value) if kind in ("Clip", "Pad") and name != "pads" else np.ravel(value).tolist()
        return inputs[:1], attrs

    def _check_old(self, kind: str, inputs: Any, attrs: dict[str, Any]) -> None:
        if kind == "Gather" and not isinstance(inputs[1], str) and np.any(np.asarray(inputs[1]) < 0):
            raise NotInOpsetError("negative indices")
        if kind == "Gemm" and len(inputs) < 3:
            raise NotInOpsetError("Gemm without C")
        if kind == "DepthToSpace" and attrs.pop("mode", "DCR") != "DCR":
            raise NotInOpsetError("CRD")
        if kind == "Dropout":
            attrs.setdefault("ratio", 0.5)


def _guarded(rule: Rule) -> Rule:
    def guarded(growth: Growth, x: str) -> str | None:
        count, constants = len(growth.net.nodes), len(growth.net.initializers)
        try:
            return rule(growth, x)
        except NotInOpsetError:
            del growth.net.nodes[count:], growth.net.initializers[constants:]
            produced = {name for node in growth.net.nodes for name in node.output}
            produced |= {value.name for value in growth.net.inputs}
            for name in [name for name in growth.shapes if name not in produced and not growth.inside]:
                del growth.shapes[name]
            made = {tensor.name for tensor in growth.net.initializers} | produced
            growth.weights = [(shape, name) for shape, name in growth.weights if name in made]
            return None

    return guarded


def quantised(growth: Growth, x: str) -> str | None:
    """Quantised and dequantised, per tensor or by channel."""
    net, shape = growth.net, growth.shapes[x]
    if net.dtype != np.float32:
        return None
    kind = growth.pick([np.int8, np.uint8])
    axis = growth.pick([None, 1]) if net.opset >= 13 and len(shape) > 1 and isinstance(shape[1], int) else None
    size = () if axis is None else (shape[1],)
    scale = np.asarray(net.rng.uniform(0.02, 0.08, size), np.float32)
    operands = [scale, np.full(size, 0 if kind == np.int8 else 128, kind)]
    attrs = {} if axis is None else {"axis": axis}
    return growth.add(
        shape, "DequantizeLinear", net.op("QuantizeLinear", x, *operands, **attrs), *operands, **attrs
    )  # fmt: skip


def in_other_floats(growth: Growth, x: str) -> str | None:
    """A few operators in another floating-point format, between two Casts."""
    net = growth.net
    if growth.inside:
        return None
    outside, dtype = net.dtype, growth.pick([np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)])
    if dtype == outside or outside == BFLOAT16:
        return None
    y = net.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype))
    net.dtype = dtype
    inner = Growth(net, growth.choices, {y: growth.shapes[x]}, [], True)
    try:
        for _ in range(growth.choices.integer(1, 4)):
            kind = growth.pick(["linear", "affine", "affine", "through", "activation"])
            y = apply_rule(inner, kind, y) or y
    finally:
        net.dtype = outside
    return growth.add(inner.shapes[y], "Cast", y, to=helper.np_dtype_to_tensor_dtype(outside))


def newer_normalization(growth: Growth, x: str) -> str | None:
    """The normalisations that came later, or that few use."""
    net, shape = growth.net, growth.shapes[x]
    kind = growth.pick(
        ["GroupNormalization", "RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN",
         "LayerNormalization", "InstanceNormalization"]
    )  # fmt: skip
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    epsilon = growth.pick([1e-5, 1e-3, 0.1])
    if kind == "GroupNormalization":
        groups = growth.pick(random_graphs.divisors(shape[1]))
        operands = [growth.vector(shape[1]), net.draw(shape[1])]
        return growth.add(shape, kind, x, *operands, num_groups=groups, epsilon=epsilon)
    if kind == "InstanceNormalization":
        return growth.add(shape, kind, x, growth.vector(shape[1]), net.draw(shape[1]), epsilon=epsilon)
    if kind == "LayerNormalization":
        return growth.add(shape, kind, x, growth.vector(shape[-1]), net.draw(shape[-1]), epsilon=epsilon)
    if kind == "RMSNormalization":
        return growth.add(shape, kind, x, growth.vector(shape[-1]), epsilon=epsilon)
    if kind == "MeanVarianceNormalization":
        return growth.add(shape, kind, x, axes=[0, *range(2, len(shape))])
    if kind == "LpNormalization":
        return growth.add(shape, kind, x, axis=growth.choices.integer(1, len(shape) - 1), p=growth.pick([1, 2]))
    return growth.add(shape, kind, x, size=3) if len(shape) == 4 else None


def other_activation(growth: Growth, x: str) -> str | None:
    kinds = ["HardSigmoid", "Elu", "Selu", "Softplus", "ThresholdedRelu", "HardSwish", "Gelu", "Mish", "Exp", "Sign"]
    return growth.add(growth.shapes[x], growth.pick(kinds), x)


def grow_versioned(opset: int, ir_version: int, dtype: Any, seed: int, choices: Choices, *, size: int) -> ModelProto:
    """A random model of that opset and number format."""
    net = VersionedNet(opset=opset, ir_version=ir_version, seed=seed, dtype=dtype)
    rules = {kind: list(found) for kind, found in RULES.items()}
    try:
        RULES["through"] += [quantised, quantised, in_other_floats, in_other_floats]
        RULES["activation"] += [newer_normalization, newer_normalization, other_activation, other_activation]
        for kind, found in RULES.items():
            RULES[kind] = [_guarded(rule) for rule in (*found, *RARE.get(kind, ()))]
        model = grow(net, choices, size=size, start=flat_start)
        growth = Growth(net, choices)
        for change, percent in SURROUNDINGS:
            if growth.chance(percent):
                change(model, growth)
    finally:
        RULES.update(rules)
    if ir_version < 4:
        listed = {value.name for value in model.graph.input}
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
            if tensor.name not in listed
        )
    return model
