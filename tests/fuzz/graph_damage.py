"""Damage to the meaning of a model: it is parsed, one thing in it changes, and it is written again.

Most of these are still models, often valid ones, which is what gets deepest into folding.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from wire_damage import EXTREMES, Mutator

FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))


def _meaning(change: Callable[[random.Random, ModelProto], None]) -> Mutator:
    """A change of the parsed model as a mutator; bytes that cannot be parsed stay as they are."""

    def mutator(rng: random.Random, data: bytes, other: bytes) -> bytes:
        model = ModelProto()
        try:
            model.ParseFromString(data)
            change(rng, model)
            return model.SerializeToString()
        except (DecodeError, EncodeError, ValueError, TypeError, LookupError, OverflowError):
            return data  # nothing there to change

    return mutator


def _names(graph: GraphProto) -> list[str]:
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return names + [name for node in graph.node for name in node.output]


def _other_operator(rng: random.Random, model: ModelProto) -> None:
    known = [schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""]
    rng.choice(model.graph.node).op_type = rng.choice(known)


def _other_operator_of_note(rng: random.Random, model: ModelProto) -> None:
    rng.choice(model.graph.node).op_type = rng.choice(
        ("Add", "Mul", "Sub", "Div", "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Concat", "Relu",
         "MaxPool", "AveragePool", "Reshape", "Transpose", "Flatten", "Squeeze", "Pad", "Resize", "Identity", "Split",
         "Slice", "Gather", "Expand", "ReduceMean", "ReduceSum", "PRelu", "Sum", "Neg", "Dropout", "GRU", "LSTM")
    )  # fmt: skip


def _rewire(rng: random.Random, model: ModelProto) -> None:
    node = rng.choice(model.graph.node)
    node.input[rng.randrange(len(node.input))] = rng.choice([*_names(model.graph), ""])


def _inputs_and_outputs_of_a_node(rng: random.Random, model: ModelProto) -> None:
    node = rng.choice(model.graph.node)
    slots = rng.choice((node.input, node.output))
    if rng.random() < 0.5:
        del slots[rng.randrange(len(slots))]
    else:
        slots.append(rng.choice([*_names(model.graph), "", "more"]))


def _attribute(rng: random.Random, model: ModelProto) -> None:
    attribute = rng.choice([entry for node in model.graph.node for entry in node.attribute])
    if attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(EXTREMES)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif attribute.type == AttributeProto.INTS:
        _some_number(rng, attribute.ints)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice((b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"", b"\xff\xfe", b"reflect", b"linear"))
    else:
        attribute.type = rng.randrange(16)


def _some_number(rng: random.Random, numbers: list[int]) -> None:
    if rng.random() < 0.3:
        del numbers[rng.randrange(len(numbers))]
    elif rng.random() < 0.3:
        numbers.append(rng.choice(EXTREMES))
    else:
        numbers[rng.randrange(len(numbers))] = rng.choice(EXTREMES)


def _added_attribute(rng: random.Random, model: ModelProto) -> None:
    name = rng.choice(("axis", "group", "pads", "alpha", "beta", "transA", "transB", "training_mode", "epsilon", "perm",
                       "strides", "dilations", "auto_pad", "count_include_pad", "ceil_mode", "spatial"))  # fmt: skip
    value = rng.choice((rng.choice(EXTREMES), rng.choice(FLOATS), [1, 1], [2, 0, 0, 2], "SAME_UPPER"))
    rng.choice(model.graph.node).attribute.append(helper.make_attribute(name, value))


def _dropped_attribute(rng: random.Random, model: ModelProto) -> None:
    node = rng.choice([node for node in model.graph.node if node.attribute])
    del node.attribute[rng.randrange(len(node.attribute))]


def _values(rng: random.Random, model: ModelProto) -> None:
    """Numbers of an initializer: zeros, infinities, NaN, other signs."""
    tensor = rng.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    where = slice(None) if rng.random() < 0.3 else rng.randrange(flat.size)
    with np.errstate(all="ignore"):
        flat[where] = rng.choice((-flat[where], *FLOATS)) if array.dtype.kind == "f" else rng.choice(EXTREMES[:10])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _shape(rng: random.Random, model: ModelProto) -> None:
    """An initializer in another shape of as many elements, or of an absurd one."""
    tensor = rng.choice(model.graph.initializer)
    dims = list(tensor.dims)
    choice = rng.random()
    if choice < 0.4:
        rng.shuffle(dims)
    elif choice < 0.7:
        dims.insert(rng.randrange(len(dims) + 1), 1)
    else:
        dims[rng.randrange(len(dims))] = rng.choice(EXTREMES)
    del tensor.dims[:]
    tensor.dims.extend(dims)


def _dtype(rng: random.Random, model: ModelProto) -> None:
    if rng.random() < 0.5:
        rng.choice(model.graph.initializer).data_type = rng.randrange(30)
        return
    tensor = rng.choice(model.graph.initializer)
    dtype = rng.choice((np.float16, np.float64, np.int32, np.int64))
    with np.errstate(all="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))


def _name(rng: random.Random, model: ModelProto) -> None:
    """The name of one tensor becomes that of another, empty, or very long."""
    name = rng.choice([*_names(model.graph), "", "x" * 5000, "a\nb", "\x1b[31m", "../name"])
    graph = model.graph
    target = rng.choice((*graph.input, *graph.output, *graph.initializer, *graph.node, *graph.value_info))
    if isinstance(target, NodeProto) and rng.random() < 0.7:
        target.output[rng.randrange(len(target.output))] = name
    else:
        target.name = name


def _type(rng: random.Random, model: ModelProto) -> None:
    value = rng.choice((*model.graph.input, *model.graph.output, *model.graph.value_info))
    choice = rng.random()
    if choice < 0.2:
        value.ClearField("type")
    elif choice < 0.4:
        value.type.tensor_type.elem_type = rng.randrange(30)
    elif choice < 0.6:
        value.type.tensor_type.ClearField("shape")
    else:
        rng.choice(value.type.tensor_type.shape.dim).dim_value = rng.choice(EXTREMES)


def _versions(rng: random.Random, model: ModelProto) -> None:
    if rng.random() < 0.3:
        model.ir_version = rng.choice((1, 3, 4, 8, 10, 13, 99, 1 << 40))
    else:
        rng.choice(model.opset_import).version = rng.choice((0, 1, 5, 6, 7, 8, 9, 11, 13, 14, 15, 18, 21, 24, 99, -1))


def _order(rng: random.Random, model: ModelProto) -> None:
    """Remove a node, repeat one, or put it elsewhere."""
    nodes = list(model.graph.node)
    index = rng.randrange(len(nodes))
    node = nodes.pop(index) if rng.random() < 0.7 else nodes[index]
    if rng.random() < 0.6:
        nodes.insert(rng.randrange(len(nodes) + 1), node)
    kept = [NodeProto.FromString(entry.SerializeToString()) for entry in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _observe(rng: random.Random, model: ModelProto) -> None:
    """Another output, or an initializer that is an input too."""
    graph = model.graph
    if rng.random() < 0.5:
        graph.output.append(helper.make_tensor_value_info(rng.choice(_names(graph)), TensorProto.FLOAT, None))
    else:
        tensor = rng.choice(graph.initializer)
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _insert(rng: random.Random, model: ModelProto) -> None:
    """An operator in the middle of a tensor's way."""
    graph = model.graph
    index = rng.randrange(len(graph.node))
    node = graph.node[index]
    slot = rng.randrange(len(node.input))
    name = f"inserted_{len(graph.node)}"
    kind = rng.choice(("Identity", "Neg", "Relu", "Add", "Mul", "Transpose", "Flatten", "Abs", "Cast", "Unknown"))
    given = [node.input[slot]] + [rng.choice(_names(graph))] * (kind in ("Add", "Mul"))
    kept = [NodeProto.FromString(entry.SerializeToString()) for entry in graph.node]
    kept[index].input[slot] = name
    kept.insert(index, helper.make_node(kind, given, [name], **({"to": rng.randrange(20)} if kind == "Cast" else {})))
    del graph.node[:]
    graph.node.extend(kept)


def _into_branch(rng: random.Random, model: ModelProto) -> None:
    """The graph's nodes become the body of an If."""
    graph = model.graph
    body = helper.make_graph(list(graph.node), "body", [], list(graph.output))
    condition = numpy_helper.from_array(np.array(rng.random() < 0.5), "condition")
    node = helper.make_node("If", ["condition"], [out.name + rng.choice(("", "_")) for out in graph.output])
    node.attribute.extend([helper.make_attribute("then_branch", body), helper.make_attribute("else_branch", body)])
    del graph.node[:]
    graph.node.append(node)
    graph.initializer.append(condition)
    for value, name in zip(graph.output, node.output, strict=True):
        value.name = name


def _each(*changes: Callable[[random.Random, ModelProto], None]) -> tuple[Mutator, ...]:
    return tuple(_meaning(change) for change in changes)


MEANING = _each(
    _other_operator, _other_operator_of_note, _rewire, _inputs_and_outputs_of_a_node, _attribute,
    _added_attribute, _dropped_attribute, _values, _shape, _dtype, _name, _type, _versions, _order, _observe,
    _insert, _into_branch,
)  # fmt: skip
