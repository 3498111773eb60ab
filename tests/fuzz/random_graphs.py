"""Random ONNX graphs: linear operators, affines and everything an affine may meet on its way.

A graph grows tensor by tensor. Each rule looks at the shape of a tensor and says whether it applies;
sizes are tiny, so that thousands of graphs can be folded and run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from graph_choices import Choices, Replayed, chance, pick
from helpers import Net, ints
from onnx import ModelProto, TensorProto, helper, numpy_helper

Shape = tuple[Any, ...]
Rule = Callable[["Growth", str], "str | None"]

#: What input shapes are drawn from; N is the batch.
INPUTS: list[Shape] = [
    ("N", 4, 4, 4), ("N", 6, 4, 2), (2, 4, 4, 4), (3, 2, 4, 2), ("N", 8, 2, 2),
    (2, 4, 6), ("N", 6, 4), ("N", 4), (4, 6),
]  # fmt: skip
RULES: dict[str, list[Rule]] = {"linear": [], "affine": [], "through": [], "activation": [], "join": [], "body": []}
#: Out of a hundred decisions, how many are for each kind of operator.
WEIGHTS = {"linear": 22, "affine": 30, "through": 22, "activation": 11, "join": 14, "body": 1}
MAX_ELEMENTS = 512


def rule(kind: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        RULES[kind].append(function)
        return function

    return enter


@dataclass
class Growth:
    """A graph under construction: the net, the tensors so far with their shapes, the decisions."""

    net: Net
    choices: Choices
    shapes: dict[str, Shape] = field(default_factory=dict)
    weights: list[tuple[Shape, str]] = field(default_factory=list)
    #: No subgraphs inside subgraphs, nor anything that reads tensors by chance.
    inside: bool = False

    def pick(self, options: Sequence[Any]) -> Any:
        return pick(self.choices, options)

    def chance(self, percent: int) -> bool:
        return chance(self.choices, percent)

    def add(self, shape: Sequence[Any], kind: str, *inputs: Any, **attrs: Any) -> str:
        """An operator with one output of that shape; some nodes have no name."""
        if self.chance(10):
            attrs["name"] = ""
        made = str(self.net.op(kind, *inputs, **attrs))
        self.shapes[made] = tuple(shape)
        return made

    def weight(self, *shape: int) -> str:
        """A weight, now and then one that exists already, or one that operators on constants compute."""
        if self.chance(15):
            for known, name in self.weights:
                if known == shape:
                    return name
        values = self.net.draw(*shape) / np.sqrt(max(1, prod(shape[1:])))
        name = self.detour(values.astype(self.net.dtype)) if self.chance(15) else self.net.const(values)
        self.weights.append((shape, name))
        return name

    def detour(self, values: np.ndarray) -> str:
        """A constant that is no initializer."""
        net, kind = self.net, self.pick(["Identity", "Transpose", "Mul", "Reshape", "Constant", "Dequantize"])
        if kind == "Identity":
            return str(net.op(kind, values))
        if kind == "Transpose":
            return str(net.op(kind, np.ascontiguousarray(values.T)))
        if kind == "Mul":
            return str(net.op(kind, values, np.asarray(0.5, net.dtype)))
        if kind == "Reshape":
            return str(net.op(kind, values.reshape(-1), ints(*values.shape)))
        if kind == "Dequantize" and net.dtype == np.float32:
            integers = net.rng.integers(-127, 128, values.shape).astype(np.int8)
            return str(net.op("DequantizeLinear", integers, np.float32(0.01)))
        return str(net.op("Constant", value=numpy_helper.from_array(values)))

    def vector(self, size: int, *, positive: bool | None = None) -> np.ndarray:
        """Scales: positive, of any sign, with zeros, or all the same."""
        kinds = ["positive", "positive", "any", "zero", "same", "ones"]
        kind = self.pick(kinds) if positive is None and size else "positive"
        if kind == "ones":
            return np.ones(size, self.net.dtype)
        if kind == "any":
            return self.net.draw(size)
        values = self.net.positive(size)
        if kind == "zero":
            values[self.choices.integer(0, size - 1)] = 0.0
        return np.full_like(values, values[0]) if kind == "same" else values


def is_static(dims: Sequence[Any]) -> bool:
    return all(isinstance(dim, int) for dim in dims)


def divisors(*numbers: int) -> list[int]:
    return [d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers)]


def grow(
    net: Net,
    choices: Choices,
    *,
    size: int = 12,
    inputs: int = 2,
    rank: int | None = None,
    start: Callable[[Growth], None] | None = None,
) -> ModelProto:
    """A model of about ``size`` operators; it has one output or several. ``start`` may add inputs of its own."""
    growth = Growth(net, choices)
    shapes = [shape for shape in INPUTS if rank is None or len(shape) == rank]
    for index in range(choices.integer(1, inputs)):
        shape = growth.pick(shapes)
        growth.shapes[net.input(*shape, name=f"input_{index}")] = shape
    if start is not None:
        start(growth)
    kinds = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)]
    count = choices.integer(1, size)
    last = next(iter(growth.shapes))
    for _ in range(count):
        last = step(growth, growth.pick(kinds), last) or last
    return finish(growth, last)


def chain(net: Net, choices: Choices, *, size: int = 8) -> ModelProto:
    """A model that is one row of operators without joins or subgraphs."""
    growth = Growth(net, choices, inside=True)
    shape = growth.pick(INPUTS)
    last = net.input(*shape, name="input")
    growth.shapes[last] = shape
    kinds = [kind for kind, weight in WEIGHTS.items() if kind not in ("join", "body") for _ in range(weight)]
    for _ in range(choices.integer(1, size)):
        made = apply_rule(growth, growth.pick(kinds), last)
        last = made or last
    return finish(growth, last, several=False)


def step(growth: Growth, kind: str, last: str) -> str | None:
    """Grow from the newest tensor, or now and then from another one."""
    tensor = last if growth.chance(75) else growth.pick(list(growth.shapes))
    return apply_rule(growth, kind, tensor)


def apply_rule(growth: Growth, kind: str, tensor: str) -> str | None:
    """One of the rules of a kind, if it applies to the tensor."""
    if len(growth.shapes[tensor]) < 2:
        return None
    made = growth.pick(RULES[kind])(growth, tensor)
    if made is not None and prod(d for d in growth.shapes[made] if isinstance(d, int)) > MAX_ELEMENTS:
        del growth.shapes[made]  # too large to go on from; the operator stays, unread
        return None
    return made


def finish(growth: Growth, last: str, *, several: bool = True) -> ModelProto:
    """Choose outputs: the newest tensor, what else nobody reads, and sometimes one from the middle."""
    net = growth.net
    read = {name for node in net.nodes for name in node.input}
    produced = [name for node in net.nodes for name in node.output]
    grown = [name for name in produced if name in growth.shapes]
    outputs = [name for name in grown if name == last or name not in read]
    if not outputs:
        outputs = [growth.add(growth.shapes[last], "Identity", last)]
    if several and grown and growth.chance(20):
        outputs.append(growth.pick(grown))
    for name in dict.fromkeys(outputs):
        net.output(name, shape=[dim if isinstance(dim, int) else "N" for dim in growth.shapes[name]])
    model = net.build()
    if growth.chance(10):
        let_override(model, growth)
    return model


def let_override(model: ModelProto, growth: Growth) -> None:
    """List some weights among the inputs: the caller may override them."""
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.INT64 and growth.chance(30):
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


# -- linear operators --------------------------------------------------------------------------------


@rule("linear")
def conv(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    out = growth.pick([2, 4, 6])
    group = growth.pick(divisors(shape[1], out))
    kernel = [growth.pick([k for k in (1, 1, 2, 3) if k <= size]) for size in shape[2:]]
    pads = [growth.choices.integer(0, 1) for _ in shape[2:] * 2] if growth.chance(40) else [0] * 2 * (len(shape) - 2)
    strides = [growth.pick([1, 1, 2]) for _ in shape[2:]]
    half = len(pads) // 2
    sizes = [
        (size + pads[i] + pads[i + half] - k) // s + 1
        for i, (size, k, s) in enumerate(zip(shape[2:], kernel, strides, strict=True))
    ]
    operands = [growth.weight(out, shape[1] // group, *kernel)]
    operands += [growth.weight(out)] if growth.chance(50) else []
    return growth.add((shape[0], out, *sizes), "Conv", x, *operands, group=group, pads=pads, strides=strides)


@rule("linear")
def conv_transpose(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    out = growth.pick([2, 4])
    group = growth.pick(divisors(shape[1], out))
    kernel, stride = growth.pick([1, 2]), growth.pick([1, 2])
    sizes = [(size - 1) * stride + kernel for size in shape[2:]]
    operands = [growth.weight(shape[1], out // group, *[kernel] * len(sizes))]
    operands += [growth.weight(out)] if growth.chance(50) else []
    return growth.add(
        (shape[0], out, *sizes), "ConvTranspose", x, *operands, group=group, strides=[stride] * len(sizes)
    )


@rule("linear")
def gemm(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) != 2 or not isinstance(shape[1], int):
        return None
    out, trans = growth.pick([4, 6]), growth.pick([0, 1])
    weight = growth.weight(*((out, shape[1]) if trans else (shape[1], out)))
    kinds = [None, (), (1,), (out,), (1, out)] + ([(shape[0], out), (shape[0], 1)] if isinstance(shape[0], int) else [])
    bias = growth.pick(kinds)
    operands = [] if bias is None else [growth.weight(*bias)]
    alpha, beta = growth.pick([1.0, 0.5, -2.0]), growth.pick([1.0, 0.25, 0.0])
    return growth.add((shape[0], out), "Gemm", x, weight, *operands, transB=trans, alpha=alpha, beta=beta)


@rule("linear")
def matmul(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 2 or not isinstance(shape[-1], int):
        return None
    out = growth.pick([4, 6])
    y = growth.add((*shape[:-1], out), "MatMul", x, growth.weight(shape[-1], out))
    if growth.chance(50):
        y = growth.add(growth.shapes[y], "Add", *growth.pick([(y, growth.net.draw(out)), (growth.net.draw(out), y)]))
    return y


@rule("linear")
def matmul_from_the_left(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 2 or not isinstance(shape[-2], int):
        return None
    out = growth.pick([2, 4])
    return growth.add((*shape[:-2], out, shape[-1]), "MatMul", growth.weight(out, shape[-2]), x)


@rule("linear")
def einsum(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) != 3 or not is_static(shape[1:]):
        return None
    equation = growth.pick(["bik,kn->bin", "bik,kn->bni", "bik,ikn->bn", "bki,kn->bin"])
    sizes = {"b": shape[0], equation[1]: shape[1], equation[2]: shape[2], "n": growth.pick([2, 4])}
    _, own, out = equation.replace("->", ",").split(",")
    weight = growth.weight(*(sizes[label] for label in own))
    return growth.add([sizes[label] for label in out], "Einsum", x, weight, equation=equation)


@rule("linear")
def gru(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) != 3 or not isinstance(shape[-1], int) or 0 in shape:  # of nothing onnxruntime does not stand it
        return None
    hidden = 2
    operands = [growth.weight(1, 3 * hidden, shape[2]), growth.weight(1, 3 * hidden, hidden)]
    operands += [growth.weight(1, 6 * hidden)] if growth.chance(50) else []
    y, _ = growth.net.op("GRU", x, *operands, hidden_size=hidden, outputs=2)
    growth.shapes[y] = (shape[0], 1, shape[1], hidden)
    return growth.add((shape[0], shape[1], hidden), "Squeeze", y, ints(1))


# -- affines -----------------------------------------------------------------------------------------


@rule("affine")
def batchnorm(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 2 or not isinstance(shape[1], int):
        return None
    net, channels = growth.net, shape[1]
    shift = growth.pick([net.draw(channels), net.draw(channels), np.zeros(channels, net.dtype)])
    vectors = [growth.vector(channels), shift, growth.pick([shift, net.draw(channels)]), net.positive(channels)]
    return growth.add(shape, "BatchNormalization", x, *vectors)


@rule("affine")
def arithmetic(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    kind, net = growth.pick(["Mul", "Add", "Sub", "Div"]), growth.net
    places = [axis for axis, dim in enumerate(shape) if isinstance(dim, int)]
    axis = growth.pick([None, 1 if 1 in places else None, *places])
    if axis is None:
        values = growth.vector(1).reshape(growth.pick([(), (1,)]))
    else:
        values = growth.vector(shape[axis]).reshape([shape[axis]] + [1] * (len(shape) - axis - 1))
    if kind == "Div":
        return growth.add(shape, kind, x, net.positive(*values.shape))
    return growth.add(shape, kind, *growth.pick([(x, values), (values, x)]))


@rule("affine")
def two_axes(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:3]):
        return None
    values = growth.net.positive(shape[1], shape[2], *[1] * (len(shape) - 3))
    return growth.add(shape, growth.pick(["Mul", "Add"]), x, values)


@rule("affine")
def negation(growth: Growth, x: str) -> str | None:
    return growth.add(growth.shapes[x], "Neg", x)


# -- what affines pass -------------------------------------------------------------------------------


@rule("through")
def nothing(growth: Growth, x: str) -> str | None:
    return growth.add(growth.shapes[x], growth.pick(["Identity", "Dropout"]), x)


@rule("through")
def blur(growth: Growth, x: str) -> str | None:
    """The same tensor, of a shape that shape inference does not know."""
    return growth.add(growth.shapes[x], "Reshape", x, growth.net.op("Abs", growth.net.op("Shape", x)))


@rule("through")
def transpose(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    perm = list(range(len(shape)))
    for place in range(len(shape) - 1, 1, -1):
        other = growth.choices.integer(1, place)
        perm[place], perm[other] = perm[other], perm[place]
    return growth.add([shape[axis] for axis in perm], "Transpose", x, perm=perm)


@rule("through")
def reshape(growth: Growth, x: str) -> str | None:
    """Merge two neighbouring axes, or split one."""
    shape = list(growth.shapes[x])
    if growth.chance(50) and len(shape) > 2:
        axis = growth.choices.integer(1, len(shape) - 2)
        if not is_static(shape[axis : axis + 2]):
            return None
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    elif len(shape) < 5:
        axis = growth.choices.integer(1, len(shape) - 1)
        if not isinstance(shape[axis], int):
            return None
        factor = growth.pick(divisors(shape[axis]))
        shape[axis : axis + 1] = [shape[axis] // factor, factor]
    target = [
        dim if isinstance(dim, int) else growth.pick([-1, 0]) if place == 0 else -1 for place, dim in enumerate(shape)
    ]
    if target.count(-1) > 1:
        return None
    return growth.add(shape, "Reshape", x, ints(*target))


@rule("through")
def flatten(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    return growth.add((shape[0], prod(shape[1:])), "Flatten", x)


@rule("through")
def unsqueeze(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape))
    if 1 in shape[1:] and growth.chance(70):
        axis = shape.index(1, 1)
        return growth.add(shape[:axis] + shape[axis + 1 :], "Squeeze", x, ints(axis))
    return growth.add([*shape[:axis], 1, *shape[axis:]], "Unsqueeze", x, ints(axis)) if len(shape) < 5 else None


@rule("through")
def blocks(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) != 4 or not is_static(shape[1:]):
        return None
    batch, channels, height, width = shape
    if channels % 4 == 0 and growth.chance(60):
        mode = growth.pick(["DCR", "CRD"])
        return growth.add((batch, channels // 4, height * 2, width * 2), "DepthToSpace", x, blocksize=2, mode=mode)
    if height % 2 or width % 2:
        return None
    return growth.add((batch, channels * 4, height // 2, width // 2), "SpaceToDepth", x, blocksize=2)


@rule("through")
def selection(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    if not isinstance(shape[axis], int) or shape[axis] < 2:
        return None
    size = shape[axis]
    if growth.chance(50):
        count = growth.choices.integer(1, size)
        indices = [growth.choices.integer(-size, size - 1) for _ in range(count)]
        shape[axis] = count
        return growth.add(shape, "Gather", x, ints(*indices), axis=axis)
    start, stop, step = growth.pick([(0, size - 1, 1), (1, size, 1), (-1, -size - 1, -1), (0, size, 2)])
    shape[axis] = len(range(size)[slice(start, None if step < 0 else stop, step)])
    return growth.add(shape, "Slice", x, ints(start), ints(stop), ints(axis), ints(step))


@rule("through")
def repetition(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    if not isinstance(shape[axis], int):
        return None
    if shape[axis] == 1:
        target = [1] * len(shape)
        target[axis] = shape[axis] = growth.pick([2, 4])
        return growth.add(shape, "Expand", x, ints(*target))
    times = [1] * len(shape)
    times[axis] = 2
    shape[axis] *= 2
    return growth.add(shape, "Tile", x, ints(*times))


@rule("through")
def pool(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    if len(shape) not in (3, 4) or not is_static(shape[1:]) or min(shape[2:]) < 2:
        return None
    kind = growth.pick(["AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"])
    spatial = len(shape) - 2
    if kind.startswith("Global"):
        return growth.add((*shape[:2], *[1] * spatial), kind, x)
    pads = [growth.choices.integer(0, 1)] * 2 * spatial
    attrs = {"count_include_pad": growth.choices.integer(0, 1)} if kind == "AveragePool" else {}
    sizes = [size + 2 * pads[0] - 1 for size in shape[2:]]
    return growth.add((*shape[:2], *sizes), kind, x, kernel_shape=[2] * spatial, pads=pads, **attrs)


@rule("through")
def reduction(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    if len(shape) < 3:
        return None
    axis, keepdims = growth.choices.integer(1, len(shape) - 1), growth.choices.integer(0, 1)
    kind = growth.pick(["ReduceMean", "ReduceSum", "ReduceMax"])
    shape[axis : axis + 1] = [1] * keepdims
    if kind == "ReduceSum":
        return growth.add(shape, kind, x, ints(axis), keepdims=keepdims)
    return growth.add(shape, kind, x, axes=[axis], keepdims=keepdims)


@rule("through")
def pad(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    if not isinstance(shape[axis], int) or shape[axis] < 2:
        return None
    amounts = [0] * 2 * len(shape)
    amounts[axis], amounts[axis + len(shape)] = 1, growth.choices.integer(0, 1)
    shape[axis] += amounts[axis] + amounts[axis + len(shape)]
    mode = growth.pick(["constant", "constant", "edge", "reflect"])
    value = [np.asarray(growth.pick([0.0, 0.5]), growth.net.dtype)] if mode == "constant" and growth.chance(50) else []
    return growth.add(shape, "Pad", x, ints(*amounts), *value, mode=mode)


@rule("through")
def resize(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    if len(shape) != 4 or not is_static(shape[1:]):
        return None
    scales = np.array([1, 1, 2, 1], np.float32)
    return growth.add(
        (*shape[:2], shape[2] * 2, shape[3]), "Resize", x, "", scales, mode=growth.pick(["nearest", "linear"])
    )


@rule("activation")
def activation(growth: Growth, x: str) -> str | None:
    kind = growth.pick(["Relu", "Relu", "LeakyRelu", "Tanh", "Sigmoid", "Abs", "Clip", "PRelu"])
    zero = np.zeros((), growth.net.dtype)
    extra = {"Clip": [zero, *([zero + 6] if growth.chance(50) else [])], "PRelu": [growth.net.positive(1)]}.get(
        kind, []
    )
    return growth.add(growth.shapes[x], kind, x, *extra)


@rule("activation")
def normalization(growth: Growth, x: str) -> str | None:
    """Takes a shift away. A large epsilon, so that it makes little of rounding errors."""
    shape = growth.shapes[x]
    kind = growth.pick(["Softmax", "LogSoftmax", "InstanceNormalization", "LayerNormalization"])
    if "max" in kind:
        return growth.add(shape, kind, x, axis=growth.choices.integer(1, len(shape) - 1))
    size = shape[1] if kind.startswith("Instance") else shape[-1]
    if not isinstance(size, int) or (kind.startswith("Instance") and len(shape) < 3):
        return None
    return growth.add(shape, kind, x, growth.vector(size), growth.net.draw(size), epsilon=0.1)


@rule("through")
def cast(growth: Growth, x: str) -> str | None:
    """Like another tensor, which is of the same type."""
    return growth.add(growth.shapes[x], "CastLike", x, growth.pick(list(growth.shapes)))


# -- joins -------------------------------------------------------------------------------------------


def partner(growth: Growth, shape: Shape) -> str:
    """Another tensor of that shape (it may be the same one again)."""
    return growth.pick([name for name, other in growth.shapes.items() if other == shape])


@rule("join")
def elementwise_join(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    kind = growth.pick(["Add", "Add", "Add", "Sub", "Mul", "Max", "Sum", "Mean"])
    other = partner(growth, shape)
    if kind == "Mul":
        other = growth.add(shape, "Sigmoid", other)
    if kind in ("Sum", "Max", "Mean") and growth.chance(40):
        return growth.add(shape, kind, x, other, partner(growth, shape))
    return growth.add(shape, kind, *growth.pick([(x, other), (other, x)]))


@rule("join")
def residual(growth: Growth, x: str) -> str | None:
    """Two branches from one tensor, added up."""
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    weight = growth.weight(shape[1], shape[1], *[1] * (len(shape) - 2))
    y = growth.add(shape, "Conv", x, weight)
    y = batchnorm(growth, y) or y
    return growth.add(shape, "Add", y, x)


@rule("join")
def parallel(growth: Growth, x: str) -> str | None:
    """Two convolutions of one tensor, each with its BatchNormalization, and perhaps the tensor itself."""
    shape = growth.shapes[x]
    if len(shape) < 3 or not is_static(shape[1:]):
        return None
    spatial, group = len(shape) - 2, growth.pick(divisors(shape[1]))
    total = batchnorm(growth, x) if growth.chance(30) else x if growth.chance(50) else None
    for taps in growth.pick([(3, 1), (1, 1), (3, 3)]):
        weight = growth.weight(shape[1], shape[1] // group, *[taps] * spatial)
        y = growth.add(shape, "Conv", x, weight, group=group, pads=[taps // 2] * 2 * spatial)
        y = batchnorm(growth, y) if growth.chance(70) else y
        total = (
            y
            if total is None
            else growth.add(shape, growth.pick(["Add", "Add", "Sub"]), *growth.pick([(total, y), (y, total)]))
        )
    return total


@rule("join")
def broadcast_join(growth: Growth, x: str) -> str | None:
    """With a tensor that is thinner along some axes: a gate, or a sum."""
    shape = growth.shapes[x]
    axis = growth.choices.integer(1, len(shape) - 1)
    thin = growth.add((*shape[:axis], 1, *shape[axis + 1 :]), "ReduceMean", x, axes=[axis], keepdims=1)
    if growth.chance(50):
        thin = batchnorm(growth, thin) or thin
    kind = growth.pick(["Mul", "Add", "Sub"])
    return growth.add(shape, kind, *growth.pick([(x, thin), (thin, x)]))


@rule("join")
def concat(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    others = [
        name
        for name, other in growth.shapes.items()
        if len(other) == len(shape) and other[:axis] + other[axis + 1 :] == tuple(shape[:axis] + shape[axis + 1 :])
    ]
    other = growth.pick(others)
    if not isinstance(shape[axis], int) or not isinstance(growth.shapes[other][axis], int):
        return None
    shape[axis] += growth.shapes[other][axis]
    return growth.add(shape, "Concat", *growth.pick([(x, other), (other, x)]), axis=axis)


@rule("join")
def split(growth: Growth, x: str) -> str | None:
    shape = list(growth.shapes[x])
    axis = growth.choices.integer(1, len(shape) - 1)
    if not isinstance(shape[axis], int) or shape[axis] < 2:
        return None
    first = growth.choices.integer(1, shape[axis] - 1)
    sizes = [first, shape[axis] - first]
    parts = growth.net.op("Split", x, ints(*sizes), axis=axis, outputs=2)
    for part, size in zip(parts, sizes, strict=True):
        growth.shapes[part] = (*shape[:axis], size, *shape[axis + 1 :])
    return growth.pick(parts)


@rule("join")
def product(growth: Growth, x: str) -> str | None:
    """Attention: x times itself, transposed."""
    shape = growth.shapes[x]
    if len(shape) != 3 or not is_static(shape[1:]):
        return None
    turned = growth.add((shape[0], shape[2], shape[1]), "Transpose", partner(growth, shape), perm=[0, 2, 1])
    return growth.add((shape[0], shape[1], shape[1]), "MatMul", x, turned)


@rule("join")
def choice(growth: Growth, x: str) -> str | None:
    shape = growth.shapes[x]
    mask = np.arange(shape[-1]) % 2 == 0 if isinstance(shape[-1], int) else np.array(True)
    other = number(growth) if growth.chance(40) else partner(growth, shape)
    return growth.add(shape, "Where", mask, *growth.pick([(x, other), (other, x)]))


@rule("join")
def bound(growth: Growth, x: str) -> str | None:
    """With one number."""
    operands = growth.pick([(x, number(growth)), (number(growth), x)])
    return growth.add(growth.shapes[x], growth.pick(["Max", "Min", "Mean"]), *operands)


def number(growth: Growth) -> np.ndarray:
    return np.full([1] * growth.choices.integer(0, 2), growth.pick([0.0, -0.5, 1.5]), growth.net.dtype)


# -- subgraphs ---------------------------------------------------------------------------------------


@rule("body")
def conditional(growth: Growth, x: str) -> str | None:
    """An If whose branches capture the tensor (and may read weights of the graph around it)."""
    if growth.inside:
        return None
    net = growth.net
    kinds = [growth.pick(["linear", "affine", "affine", "activation"]) for _ in range(growth.choices.integer(1, 3))]
    bodies, shape = [], growth.shapes[x]
    record: list[int] = []
    for side in ("then", "else"):
        inner = Growth(
            inner_net(net, f"{net.name('if')}_{side}"), growth.choices, {x: shape}, list(growth.weights), True
        )
        if record:
            inner.choices = Replayed(record)
        start = len(growth.choices.record)
        y = x
        for kind in kinds:
            y = apply_rule(inner, kind, y) or y
        if y == x:
            y = inner.add(shape, "Identity", x)
        record = record or growth.choices.record[start:]
        inner.net.output(y, shape=[dim if isinstance(dim, int) else "N" for dim in inner.shapes[y]])
        bodies.append((inner.net.graph(f"{side}_branch"), inner.shapes[y]))
    flag = net.op("Constant", value_ints=[1]) if growth.chance(20) else "flag"
    if flag == "flag":
        if all(value.name != "flag" for value in net.inputs):
            net.input(name="flag", dtype=bool)
    else:
        flag = net.op("Cast", flag, to=9)
    return growth.add(bodies[0][1], "If", flag, then_branch=bodies[0][0], else_branch=bodies[1][0])


def inner_net(outer: Net, prefix: str) -> Net:
    inner = type(outer)(opset=outer.opset, dtype=outer.dtype)
    inner.prefix, inner.rng = prefix, outer.rng
    return inner
