"""Node attributes as a Mapping that decodes a value when it is asked for, and back again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs

from bnfold.formats.onnx.payloads import Payloads
from bnfold.formats.onnx.tensors import to_param, to_proto
from bnfold.graph import Op, Param

GRAPH_TYPES = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})
TENSOR_TYPES = frozenset({AttributeProto.TENSOR, AttributeProto.TENSORS})


class Attributes(Mapping[str, Any]):
    """The attributes of a node that stand in the file; defaults are not filled in.

    Numbers are int and float, strings str (bytes where they are not UTF-8), lists are lists, tensors
    are numpy arrays. Subgraphs are not among them: an Op has those in ``subgraphs``.
    """

    __slots__ = ("_payloads", "node")

    def __init__(self, node: NodeProto, payloads: Payloads) -> None:
        self.node = node
        self._payloads = payloads

    def protos(self) -> Iterator[AttributeProto]:
        """The attributes as they stand in the file, subgraphs apart."""
        return (attribute for attribute in self.node.attribute if attribute.type not in GRAPH_TYPES)

    def proto(self, name: str) -> AttributeProto | None:
        """The attribute as it stands in the file."""
        # A node has few attributes: one that is read once need not pay for a dictionary. Walking along the field
        # itself would take three times as long as along a slice of it.
        found: AttributeProto
        for found in self.node.attribute[:]:
            if found.name == name:
                return found
        return None

    def param(self, name: str) -> Param | None:
        """A tensor attribute as a constant that is not read yet."""
        attribute = self.proto(name)
        if attribute is None or attribute.type != AttributeProto.TENSOR:
            return None
        return to_param(attribute.t, self._payloads.of(attribute.t))

    def __getitem__(self, name: str) -> Any:
        attribute = self.proto(name)
        if attribute is None or attribute.type in GRAPH_TYPES:
            raise KeyError(name)
        return self._decode(attribute)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any Mapping, but faster where there is none: most attributes are left out."""
        attribute = self.proto(name)
        return default if attribute is None or attribute.type in GRAPH_TYPES else self._decode(attribute)

    def __iter__(self) -> Iterator[str]:
        return (attribute.name for attribute in self.protos())

    def __len__(self) -> int:
        return sum(1 for _ in self.protos())

    def _decode(self, attribute: AttributeProto) -> Any:
        match attribute.type:
            case AttributeProto.INT:
                return attribute.i
            case AttributeProto.FLOAT:
                return attribute.f
            case AttributeProto.STRING:
                return _text(attribute.s)
            case AttributeProto.INTS:
                return list(attribute.ints)
            case AttributeProto.FLOATS:
                return list(attribute.floats)
            case AttributeProto.STRINGS:
                return [_text(value) for value in attribute.strings]
            case AttributeProto.TENSOR:
                return self._array(attribute.t)
            case AttributeProto.TENSORS:
                return [self._array(tensor) for tensor in attribute.tensors]
            case AttributeProto.SPARSE_TENSOR:
                return attribute.sparse_tensor
            case AttributeProto.TYPE_PROTO:
                return attribute.tp
        return None

    def _array(self, tensor: TensorProto) -> Any:
        return to_param(tensor, self._payloads.of(tensor)).array()


def attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    """The tensors in an attribute itself, not those in its subgraphs."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def bodies(attribute: AttributeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs in an attribute, by their keys in :attr:`bnfold.graph.Op.subgraphs`."""
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.name, attribute.g
    elif attribute.type == AttributeProto.GRAPHS:
        for index, body in enumerate(attribute.graphs):
            yield f"{attribute.name}[{index}]", body


def attribute_protos(op: Op, version: int) -> list[AttributeProto]:
    """An operator's attributes, subgraphs apart: as they stand in the file, or encoded anew.

    ``version`` is that of the operator's domain: its schema gives the attributes their types.
    """
    if isinstance(op.attributes, Attributes):
        return list(op.attributes.protos())
    return [encode(name, value, op, version) for name, value in op.attributes.items() if value is not None]


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def encode(name: str, value: Any, op: Op, version: int) -> AttributeProto:
    """An attribute from a Python value, of the type that the operator's schema gives it."""
    kind = _schema_type(name, op, version)
    if kind is None:
        kind = _type_of(value)
    attribute = AttributeProto(name=name, type=AttributeProto.AttributeType.Name(kind))
    match kind:
        case AttributeProto.INT:
            attribute.i = int(value)
        case AttributeProto.FLOAT:
            attribute.f = float(value)
        case AttributeProto.STRING:
            attribute.s = _bytes(value)
        case AttributeProto.INTS:
            attribute.ints.extend(int(item) for item in value)
        case AttributeProto.FLOATS:
            attribute.floats.extend(float(item) for item in value)
        case AttributeProto.STRINGS:
            attribute.strings.extend(_bytes(item) for item in value)
        case AttributeProto.TENSOR:
            attribute.t.CopyFrom(to_proto(Param.of("", np.asarray(value))))
        case _:
            raise ValueError(f"attribute {name} of {op.type} cannot hold {type(value).__name__}")
    return attribute


def _schema_type(name: str, op: Op, version: int) -> int | None:
    try:
        attribute = defs.get_schema(op.type, version, op.domain).attributes.get(name)
    except defs.SchemaError:
        return None
    if attribute is None:
        return None
    number: int = AttributeProto.AttributeType.Value(str(attribute.type).rpartition(".")[2])
    return number


def _type_of(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return AttributeProto.TENSOR
    if isinstance(value, (str, bytes)):
        return AttributeProto.STRING
    if isinstance(value, (bool, int, np.integer)):
        return AttributeProto.INT
    if isinstance(value, (float, np.floating)):
        return AttributeProto.FLOAT
    items = list(value)
    if items and isinstance(items[0], (str, bytes)):
        return AttributeProto.STRINGS
    if any(isinstance(item, (float, np.floating)) for item in items):
        return AttributeProto.FLOATS
    return AttributeProto.INTS


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
