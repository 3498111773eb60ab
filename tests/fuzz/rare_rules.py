"""Operators and structures that ``random_graphs`` has not: what folding knows besides, and what surrounds a graph.

Written as opset 17 has them, like those; :class:`versioned.VersionedNet` turns them into what its opset has.
"""

from __future__ import annotations

from math import prod

import numpy as np
from helpers import ints
from onnx import ModelProto, TensorProto, helper
from random_graphs import Growth, apply_rule, batchnorm, divisors, inner_net, is_static, partner


def spatial_size(size: int, kernel: int, stride: int, pads: int, dilation: int = 1) -> int:
    return (size + pads - dilation * (kernel - 1) - 1) // stride + 1


# -- linear operators --------------------------------------------------------------------------------


def wide_conv(growth: Growth, x: str) -> str | None:
    """Dilated, or padded by a rule."""
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    out, spatial = growth.pick([2, 4]), len(shape) - 2
    kind, stride = growth.pick(["dilated", "SAME_UPPER", "SAME_LOWER", "VALID"]), growth.pick([1, 2])
    if min(shape[2:]) < {"dilated": 3, "VALID": 2}.get(kind, 1):
        return None
    operands = [growth.weight(out, shape[1], *[2] * spatial)]
    operands += [growth.weight(out)] if growth.chance(50) else []
    if kind == "dilated":
        sizes = [spatial_size(size, 2, 1, 0, 2) for size in shape[2:]]
        return growth.add((shape[0], out, *sizes), "Conv", x, *operands, dilations=[2] * spatial)
    sizes = [-(-(size - (kind == "VALID")) // stride) for size in shape[2:]]
    return growth.add((shape[0], out, *sizes), "Conv", x, *operands, auto_pad=kind, strides=[stride] * spatial)


def padded_transpose(growth: Growth, x: str) -> str | None:
    """A ConvTranspose with padding taken off and added at the end."""
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]) or min(shape[2:]) < 2:
        return None
    spatial, out = len(shape) - 2, growth.pick([2, 4])
    pad, more = growth.choices.integer(0, 1), growth.choices.integer(0, 1)
    sizes = [(size - 1) * 2 + 3 - 2 * pad + more for size in shape[2:]]
    attrs = {"strides": [2] * spatial, "pads": [pad] * 2 * spatial, "output_padding": [more] * spatial}
    return growth.add(
        (shape[0], out, *sizes), "ConvTranspose", x, growth.weight(shape[1], out, *[3] * spatial), **attrs
    )


def transposed_gemm(growth: Growth, x: str) -> str | None:
    """The data turned, or on the right."""
    shape = growth.shapes[x]
    if len(shape) != 2 or not is_static(shape):
        return None
    out = growth.pick([2, 4])
    if growth.chance(50):
        return growth.add((shape[1], out), "Gemm", x, growth.weight(shape[0], out), growth.weight(out), transA=1)
    return growth.add((out, shape[1]), "Gemm", growth.weight(out, shape[0]), x, growth.weight(out, 1))


def computed_bias(growth: Growth, x: str) -> str | None:
    """A Gemm whose C is computed."""
    shape = growth.shapes[x]
    if len(shape) != 2 or not isinstance(shape[1], int):
        return None
    return growth.add(shape, "Gemm", x, growth.weight(shape[1], shape[1]), partner(growth, shape), beta=0.5)


def batched_matmul(growth: Growth, x: str) -> str | None:
    """A matrix for each batch entry or for each head."""
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[-3:]):
        return None
    return growth.add((*shape[:-1], 4), "MatMul", x, growth.weight(shape[-3], shape[-1], 4))


def embedding(growth: Growth, x: str) -> str | None:
    """Rows of a table, looked up by a number computed from the tensor."""
    shape = growth.shapes[x]
    if len(shape) not in (2, 3) or not isinstance(shape[-1], int):
        return None
    index = growth.net.op("ArgMax", x, axis=len(shape) - 1, keepdims=0)
    return growth.add((*shape[:-1], 4), "Gather", growth.weight(shape[-1], 4), index)


def recurrent(growth: Growth, x: str) -> str | None:
    """LSTM or RNN, in one direction or both."""
    shape = growth.shapes[x]
    if len(shape) != 3 or not isinstance(shape[-1], int) or 0 in shape:
        return None
    kind, hidden = growth.pick(["LSTM", "RNN"]), 2
    gates, both = (4 if kind == "LSTM" else 1) * hidden, growth.choices.integer(1, 2)
    operands = [growth.weight(both, gates, shape[2]), growth.weight(both, gates, hidden)]
    operands += [growth.weight(both, 2 * gates)] if growth.chance(50) else []
    direction = "forward" if both == 1 else "bidirectional"
    outputs = growth.net.op(kind, x, *operands, hidden_size=hidden, direction=direction, outputs=2)
    if growth.chance(50):
        growth.shapes[outputs[1]] = (both, shape[1], hidden)
        return outputs[1]
    growth.shapes[outputs[0]] = (shape[0], both, shape[1], hidden)
    turned = growth.add((shape[0], shape[1], both, hidden), "Transpose", outputs[0], perm=[0, 2, 1, 3])
    return growth.add((shape[0], shape[1], both * hidden), "Reshape", turned, ints(0, 0, -1))


def integer_product(growth: Growth, x: str) -> str | None:
    """A MatMul as quantisation for the CPU writes it."""
    net, shape = growth.net, growth.shapes[x]
    if net.dtype != np.float32 or not isinstance(shape[-1], int):
        return None
    quantized, scale, zero = net.op("DynamicQuantizeLinear", x, outputs=3)
    weight = net.rng.integers(-127, 128, (shape[-1], 4)).astype(np.int8)
    summed = net.op("MatMulInteger", quantized, weight, zero, np.zeros((), np.int8))
    factor = net.op("Mul", scale, net.positive(*growth.pick([(), (4,)])) * np.float32(0.01))
    return growth.add((*shape[:-1], 4), "Mul", net.op("Cast", summed, to=TensorProto.FLOAT), factor)


# -- what affines pass, or not -----------------------------------------------------------------------


def triangle(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if growth.chance(50):
        return growth.add(shape, "Trilu", x, upper=growth.choices.integer(0, 1))
    return growth.add(shape, "CumSum", x, np.asarray(growth.choices.integer(-1, len(shape) - 1), np.int64))


def rare_pool(growth: Growth, x: str) -> str | None:
    """With strides, uneven padding, a ceiling, or of another norm."""
    shape = growth.shapes[x]
    if len(shape) != 4 or not is_static(shape[1:]) or min(shape[2:]) < 3:
        return None
    kind = growth.pick(["AveragePool", "MaxPool", "LpPool", "GlobalLpPool"])
    if kind == "GlobalLpPool":
        return growth.add((*shape[:2], 1, 1), kind, x, p=growth.pick([1, 2]))
    before, after = growth.choices.integer(0, 1), growth.choices.integer(0, 1)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [before, before, after, after]}
    sizes = [spatial_size(size, 2, 2, before + after) for size in shape[2:]]
    if kind == "AveragePool":
        attrs["count_include_pad"] = growth.choices.integer(0, 1)
    if kind == "MaxPool" and growth.chance(30):
        pooled, where = growth.net.op(kind, x, outputs=2, **attrs)
        growth.shapes[pooled] = (*shape[:2], *sizes)
        if growth.chance(50):
            growth.net.output(where, shape=["N", shape[1], *sizes], dtype=np.int64)
        return pooled
    return growth.add((*shape[:2], *sizes), kind, x, **attrs)


def rare_reduction(growth: Growth, x: str) -> str | None:
    """Over several axes, or by another norm."""
    shape = list(growth.shapes[x])
    kind = growth.pick(["ReduceL1", "ReduceL2", "ReduceMin", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceProd"])
    if len(shape) < 3:
        return None
    axes = sorted({growth.choices.integer(1, len(shape) - 1) for _ in range(2)})
    if len(axes) == len(shape) - 1:
        axes = axes[1:]
    attrs = {"axes": [axis - len(shape) * growth.choices.integer(0, 1) for axis in axes]}
    if growth.net.opset < 11:
        attrs = {"axes": axes}
    return growth.add([1 if axis in axes else dim for axis, dim in enumerate(shape)], kind, x, keepdims=1, **attrs)


def rare_selection(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    size = shape[axis]
    if not isinstance(size, int) or size < 2 or 0 in shape:
        return None
    kind = growth.pick(["Compress", "GatherElements", "ReverseSequence", "CenterCropPad", "TopK", "Scalar"])
    if kind == "Compress":
        mask = np.arange(size) % 2 == growth.choices.integer(0, 1)
        shape[axis] = int(mask.sum())
        return growth.add(shape, kind, x, mask, axis=axis)
    if kind == "GatherElements":
        if not is_static(shape):
            return None
        return growth.add(shape, kind, x, growth.net.rng.integers(0, size, shape).astype(np.int64), axis=axis)
    if kind == "ReverseSequence":
        if not is_static(shape):
            return None
        lengths = np.full(shape[1], shape[0], np.int64) if growth.chance(50) else np.ones(shape[1], np.int64)
        return growth.add(shape, kind, x, lengths, time_axis=0, batch_axis=1)
    if kind == "CenterCropPad":
        shape[axis] = size + growth.pick([-1, 1])
        return growth.add(shape, kind, x, ints(shape[axis]), axes=[axis])
    if kind == "TopK":
        values, _ = growth.net.op("TopK", x, ints(size), axis=axis, outputs=2)
        growth.shapes[values] = tuple(shape)
        return values
    index = np.asarray(growth.choices.integer(0, size - 1), np.int64)  # one number: the axis goes
    return growth.add(shape[:axis] + shape[axis + 1 :], "Gather", x, index, axis=axis) if len(shape) > 2 else None


def resampled(growth: Growth, x: str) -> str | None:
    """Resize in its many ways, and what samples at given places."""
    shape = growth.shapes[x]
    if len(shape) != 4 or not is_static(shape[1:]) or min(shape[2:]) < 2:
        return None
    net, (batch, channels, height, width) = growth.net, shape
    kind = growth.pick(["cubic", "sizes", "aligned", "axes", "Upsample", "GridSample", "crop"])
    if kind == "Upsample":
        if not 9 <= net.opset < 10:
            return None
        return growth.add((batch, channels, height * 2, width), kind, x, np.array([1, 1, 2, 1], np.float32))
    if kind == "GridSample":
        grid = net.rng.uniform(-1.2, 1.2, (1, 2, 2, 2)).astype(net.dtype)
        if batch != 1:
            return None
        mode = growth.pick(["zeros", "border", "reflection"])
        return growth.add((batch, channels, 2, 2), kind, x, grid, padding_mode=mode)
    scales = np.array([1, 1, 1.5, 2], np.float32)
    out = (batch, channels, int(height * 1.5), width * 2)
    if kind == "sizes":
        return growth.add((batch, channels, 3, 3), "Resize", x, "", "", ints(1, channels, 3, 3)) if batch == 1 else None
    if kind == "axes":
        if net.opset < 18:
            return None
        attrs = {"axes": [2, 3], "antialias": 1, "mode": "linear"}
        return growth.add((batch, channels, 3, 3), "Resize", x, "", "", ints(3, 3), **attrs)
    if kind == "crop":
        region = np.array([0, 0, 0.25, 0, 1, 1, 1.25, 1], np.float32)
        attrs = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 0.5}
        return growth.add(out, "Resize", x, region, scales, **attrs)
    attrs = {"mode": "cubic"} if kind == "cubic" else {"coordinate_transformation_mode": "align_corners"}
    return growth.add(out, "Resize", x, "", scales, **attrs)


def read_for_its_shape(growth: Growth, x: str) -> str | None:
    """Something of the size of the tensor, into which none of its values goes."""
    shape = growth.shapes[x]
    net = growth.net
    size = net.op("Shape", x)
    value = helper.make_tensor("value", helper.np_dtype_to_tensor_dtype(net.dtype), [1], [0.5])
    filled = growth.add(shape, "ConstantOfShape", size, value=value)
    return growth.add(shape, "Add", partner(growth, shape), filled)


# -- joins -------------------------------------------------------------------------------------------


def attention(growth: Growth, x: str) -> str | None:
    """Softmax of a product, times a third tensor; each of the three projected, perhaps normalised."""
    shape = growth.shapes[x]
    if len(shape) != 3 or not is_static(shape[1:]):
        return None
    batch, rows, width = shape

    def projected(source: str) -> str:
        made = growth.add((batch, rows, 4), "MatMul", source, growth.weight(width, 4))
        if growth.chance(60):
            made = growth.add((batch, rows, 4), "Add", made, growth.net.draw(4))
        elif growth.chance(50):
            made = batchnorm(growth, made) or made
        return growth.add((batch, rows, 4), "Mul", made, growth.vector(1)) if growth.chance(30) else made

    query, key, value = projected(x), projected(partner(growth, shape)), projected(x)
    turned = growth.add((batch, 4, rows), "Transpose", key, perm=[0, 2, 1])
    scores = growth.add((batch, rows, rows), "MatMul", query, turned)
    scores = growth.add((batch, rows, rows), growth.pick(["Div", "Mul"]), scores, growth.vector(1))
    if growth.chance(30):
        mask = growth.pick([0.0, -1e4]) * (growth.net.rng.uniform(size=(rows, rows)) > 0.6)
        scores = growth.add((batch, rows, rows), "Add", scores, mask.astype(growth.net.dtype))
    axis = growth.pick([-1, -1, -1, 1]) if growth.net.opset >= 13 else 2
    weights = growth.add((batch, rows, rows), "Softmax", scores, axis=axis)
    if growth.chance(30):
        weights = growth.add((batch, rows, rows), "Dropout", weights)
    made = growth.add((batch, rows, 4), "MatMul", weights, value)
    if growth.chance(50):
        made = batchnorm(growth, made) or made
    return growth.add((batch, rows, width), "MatMul", made, growth.weight(4, width))


def squeeze_and_excite(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) != 4 or not is_static(shape[1:]):
        return None
    thin = (*shape[:2], 1, 1)
    gate = growth.add(thin, "GlobalAveragePool", x)
    gate = growth.add(thin, "Conv", gate, growth.weight(shape[1], shape[1], 1, 1))
    gate = batchnorm(growth, gate) if growth.chance(50) else gate
    gate = growth.add(thin, growth.pick(["Sigmoid", "HardSigmoid", "Relu", "Identity"]), gate)
    return growth.add(shape, "Mul", *growth.pick([(x, gate), (gate, x)]))


def many(growth: Growth, x: str) -> str | None:
    """Concat of three, along a negative axis, a tensor twice."""
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    if not isinstance(shape[axis], int) or growth.net.opset < 11:
        return None
    operands = [x, partner(growth, tuple(shape)), x]
    shape[axis] *= 3
    return growth.add(shape, "Concat", *operands, axis=axis - len(shape))


def shuffled(growth: Growth, x: str) -> str | None:
    """The channels shuffled, as ShuffleNet does."""
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    groups = growth.pick(divisors(shape[1]))
    apart = (shape[0], groups, shape[1] // groups, *shape[2:])
    y = growth.add(apart, "Reshape", x, ints(-1, *apart[1:]))
    perm = [0, 2, 1, *range(3, len(apart))]
    y = growth.add([apart[axis] for axis in perm], "Transpose", y, perm=perm)
    return growth.add(shape, "Reshape", y, ints(-1, *shape[1:]))


def shared_parameters(growth: Growth, x: str) -> str | None:
    """Two BatchNormalizations with the same parameters, one of which is also a weight elsewhere."""
    shape = growth.shapes[x]
    if len(shape) < 2 or not isinstance(shape[1], int):
        return None
    net, size = growth.net, shape[1]
    names = [net.const(net.positive(size)), net.const(net.draw(size)), net.const(net.draw(size))]
    names.append(names[0] if growth.chance(30) else net.const(net.positive(size)))
    first = growth.add(shape, "BatchNormalization", x, *names)
    other = partner(growth, shape)
    if growth.chance(50):
        other = growth.add(shape, growth.pick(["Relu", "Sigmoid"]), other)
    second = growth.add(shape, "BatchNormalization", other, *names)
    if growth.chance(40) and len(shape) == 2:
        second = growth.add(shape, "Mul", second, names[0])
    return growth.add(shape, "Add", first, second)


def in_sequence(growth: Growth, x: str) -> str | None:
    """Into a sequence, or an optional, and out of it."""
    shape, net = growth.shapes[x], growth.net
    if growth.inside or net.opset < 11 or net.opset == 14:
        return None
    if net.opset >= 18 and growth.chance(40):
        return growth.add(shape, "OptionalGetElement", net.op("Optional", x))
    row = net.op("SequenceConstruct", x, partner(growth, shape))
    if growth.chance(50):
        return growth.add(shape, "SequenceAt", row, np.asarray(growth.choices.integer(0, 1), np.int64))
    if not isinstance(shape[1], int):
        return None
    return growth.add((shape[0], shape[1] * 2, *shape[2:]), "ConcatFromSequence", row, axis=1)


# -- subgraphs ---------------------------------------------------------------------------------------


def loop(growth: Growth, x: str) -> str | None:
    """A Loop that carries the tensor and captures another one, and weights of the graph around it."""
    shape, net = growth.shapes[x], growth.net
    if growth.inside or net.opset < 11:
        return None
    inner = Growth(inner_net(net, net.name("loop")), growth.choices, {}, list(growth.weights), True)
    inner.net.input(name=f"{inner.net.prefix}_i", dtype=np.int64)
    going = inner.net.input(name=f"{inner.net.prefix}_go", dtype=bool)
    dims = [dim if isinstance(dim, int) else "N" for dim in shape]
    carried = inner.net.input(*dims, name=f"{inner.net.prefix}_x")
    other = partner(growth, shape)
    inner.shapes = {carried: shape, other: shape}
    y = _same_shape(inner, carried, shape)
    y = inner.add(shape, growth.pick(["Add", "Sub"]), y, other) if growth.chance(50) else y
    inner.net.output(inner.net.op("Identity", going), shape=[], dtype=bool)
    y = inner.add(shape, "Tanh", y)
    inner.net.output(y, shape=dims)
    body = inner.net.graph(f"{inner.net.prefix}_body")
    count = np.asarray(growth.choices.integer(1, 3), np.int64)
    return growth.add(shape, "Loop", count, "", x, body=body)


def scan(growth: Growth, x: str) -> str | None:
    """A Scan over the first axis: the carried tensor has an axis less."""
    shape, net = growth.shapes[x], growth.net
    if growth.inside or net.opset < 11 or len(shape) < 3 or not is_static(shape):
        return None
    inner = Growth(inner_net(net, net.name("scan")), growth.choices, {}, list(growth.weights), True)
    part = shape[1:]
    piece = inner.net.input(*part, name=f"{inner.net.prefix}_x")
    inner.shapes = {piece: part}
    y = _same_shape(inner, piece, part)
    if y == piece:
        y = inner.add(part, "Identity", y)
    inner.net.output(y, shape=part)
    return growth.add(shape, "Scan", x, body=inner.net.graph(f"{inner.net.prefix}_body"), num_scan_inputs=1)


def _same_shape(inner: Growth, x: str, shape: tuple[object, ...]) -> str:
    """A few operators that keep the shape."""
    y = x
    for _ in range(inner.choices.integer(1, 4)):
        made = apply_rule(inner, inner.pick(["linear", "affine", "affine", "activation", "join"]), y)
        y = made if made is not None and inner.shapes[made] == shape else y
    return y


def branches(growth: Growth, x: str) -> str | None:
    """An If, one branch of which only hands on what it captures."""
    shape, net = growth.shapes[x], growth.net
    if growth.inside:
        return None
    if all(value.name != "flag" for value in net.inputs):
        net.input(name="flag", dtype=bool)
    bodies = []
    for side in ("then", "else"):
        inner = Growth(inner_net(net, f"{net.name('if')}_{side}"), growth.choices, {x: shape}, [], True)
        y = batchnorm(inner, x) if side == "then" else None
        y = y or inner.add(shape, "Identity", x)
        inner.net.output(y, shape=[dim if isinstance(dim, int) else "N" for dim in shape])
        bodies.append(inner.net.graph(side))
    return growth.add(shape, "If", "flag", then_branch=bodies[0], else_branch=bodies[1])


# -- onnxruntime's own -------------------------------------------------------------------------------


def of_onnxruntime(growth: Growth, x: str) -> str | None:
    """What onnxruntime writes in place of several operators."""
    net, shape = growth.net, growth.shapes[x]
    if net.dtype != np.float32 or growth.inside or net.opset < 11:
        return None
    kind = growth.pick(["FusedConv", "FusedMatMul", "FusedGemm", "QuickGelu", "BiasGelu", "SkipLayerNormalization"])
    domain = {"domain": "com.microsoft"}
    if kind == "FusedConv":
        if len(shape) != 4 or not is_static(shape[1:]):
            return None
        made = growth.add(
            (shape[0], 4, *shape[2:]), kind, x, growth.weight(4, shape[1], 1, 1), growth.weight(4), activation="Relu",
            **domain,
        )  # fmt: skip
    elif kind == "FusedMatMul":
        if not isinstance(shape[-1], int):
            return None
        made = growth.add((*shape[:-1], 4), kind, x, growth.weight(4, shape[-1]), transB=1, alpha=0.5, **domain)
    elif kind == "FusedGemm":
        if len(shape) != 2 or not isinstance(shape[1], int):
            return None
        operands = [growth.weight(shape[1], 4), growth.weight(4)]
        made = growth.add((shape[0], 4), kind, x, *operands, activation="Relu", **domain)
    elif kind == "QuickGelu":
        made = growth.add(shape, kind, x, **domain)
    else:
        if not isinstance(shape[-1], int) or (kind[0] == "S" and len(shape) != 3):
            return None
        size = shape[-1]
        more = [growth.weight(size)] if kind == "BiasGelu" else [partner(growth, shape), growth.weight(size)]
        made = growth.add(shape, kind, x, *more, **domain)
    net.domains["com.microsoft"] = 1
    return made


# -- what surrounds a graph --------------------------------------------------------------------------


def as_function(model: ModelProto, growth: Growth) -> None:
    """One operator of the graph becomes the call of a function that holds it."""
    nodes = [
        node for node in model.graph.node
        if node.op_type in ("BatchNormalization", "Conv", "Add", "Mul", "Relu", "Gemm") and not node.domain
    ]  # fmt: skip
    if not nodes or growth.net.opset < 12 or model.ir_version < 8:
        return
    node = growth.pick(nodes)
    inner = type(node)()
    inner.CopyFrom(node)
    places = {name: f"a{index}" for index, name in enumerate(dict.fromkeys([*node.input, *node.output]))}
    inner.input[:], inner.output[:] = [places[n] for n in node.input], [places[n] for n in node.output]
    inputs = [places[name] for name in dict.fromkeys(node.input)]
    opsets = [helper.make_opsetid("", growth.net.opset)]
    function = helper.make_function("local", "Held", inputs, [places[n] for n in node.output], [inner], opsets)
    model.functions.append(function)
    call = helper.make_node("Held", list(dict.fromkeys(node.input)), list(node.output), name=node.name, domain="local")
    node.CopyFrom(call)
    model.opset_import.append(helper.make_opsetid("local", 1))


def show_constants(model: ModelProto, growth: Growth) -> None:
    """A weight, or an input, is an output of the model as well."""
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64]
    if floats and growth.chance(50):
        tensor = growth.pick(floats)
        model.graph.output.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    elif growth.chance(50):
        held = {tensor.name for tensor in floats}
        fed = [value for value in model.graph.input if value.name.startswith("input_") and value.name not in held]
        model.graph.output.append(growth.pick(fed))


def rename(model: ModelProto, growth: Growth) -> None:
    """Operators have the name of a tensor; tensors have names that look like files, or like new ones."""
    names = [name for node in model.graph.node for name in node.output]
    for node in model.graph.node:
        if growth.chance(30):
            name = growth.pick([growth.pick(names), "/a/b:0", "ö x", f"{names[0]}_folded"])
            node.name = name if all(other.name != name for other in model.graph.node) else ""
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    free = [name for name in names if name not in fixed]
    if free and not any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        new = growth.pick([f"{names[-1]}_folded", f"{names[0]}_bias", "../x.bin", "w_1_2", " "])
        old = growth.pick(free)
        if new not in names and all(tensor.name != new for tensor in model.graph.initializer):
            for node in model.graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
                node.output[:] = [new if name == old else name for name in node.output]


def flat_start(growth: Growth) -> None:
    """In one graph of ten an input that is a number, a vector, empty or of one element."""
    if not growth.chance(10):
        return
    shape = growth.pick([(), (4,), (6,), (0, 4), (0, 4, 2, 2), (1, 4, 1, 1), (1, 1), ("N", 1, 4)])
    name = growth.net.input(*shape, name="input_flat")
    growth.shapes[name] = shape
    if len(shape) < 2:
        size = prod(dim for dim in shape if isinstance(dim, int))
        made = growth.net.op("Mul", name, growth.net.positive(*shape))
        growth.shapes[growth.net.op("Reshape", made, ints(1, size))] = (1, size)


#: The rules by kind, each with how often it is there.
RARE = {
    "linear": [wide_conv, padded_transpose, transposed_gemm, computed_bias, batched_matmul, embedding, recurrent,
               integer_product, of_onnxruntime],
    "affine": [shared_parameters],
    "through": [triangle, rare_pool, rare_reduction, rare_selection, resampled, read_for_its_shape, shuffled],
    "join": [attention, attention, squeeze_and_excite, many, in_sequence],
    "body": [loop, scan, branches],
}  # fmt: skip
#: What is done to one model in so many.
SURROUNDINGS = [(as_function, 8), (show_constants, 8), (rename, 12)]
