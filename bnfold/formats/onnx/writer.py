"""ModelGraph → ModelProto skeleton → file, without holding the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from bnfold.errors import OutputError
from bnfold.formats.atomic import atomic_write
from bnfold.formats.onnx.attributes import GRAPH_TYPES, Attributes, encode
from bnfold.formats.onnx.payloads import Computed, Payloads
from bnfold.formats.onnx.reader import bodies
from bnfold.formats.onnx.tensors import ELEMENT_TYPES, raw_bytes, to_header, to_proto
from bnfold.formats.onnx.wire import INLINE_BYTES, Payload, Pieces, length_field, splice
from bnfold.graph import ModelGraph, Op, Param, Tensor

#: protobuf's limit for one message.
MAX_MESSAGE_BYTES = (1 << 31) - 1


class Builder:
    """Writes graphs back into protos; new constants become marks in a table of its own."""

    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads.copy()

    def model(self, skeleton: ModelProto, graph: ModelGraph) -> ModelProto:
        """The model with ``graph`` in the place of the one it had."""
        model = ModelProto()
        model.CopyFrom(skeleton)
        self.graph(model.graph, graph)
        return model

    def graph(self, proto: GraphProto, graph: ModelGraph) -> None:
        """Change ``proto``, a copy of the graph in the file, to say what ``graph`` says."""
        needed = set(graph.outputs)
        nodes = []
        for op in graph.ops():
            node = self.node(op, graph)
            nodes.append(node)
            needed.update(reads(node))
        used_before = {name for node in proto.node for name in reads(node)}
        annotated = {
            entry.value for item in proto.quantization_annotation for entry in item.quant_parameter_tensor_names
        }
        del proto.node[:]
        proto.node.extend(nodes)
        kept = [
            param
            for name, param in graph.params.items()
            if name in needed or name in annotated or name not in used_before
        ]
        self._initializers(proto, kept)
        names = {param.name for param in kept}
        values = list(proto.input)
        del proto.input[:]
        declared = {value.name for value in graph.inputs}
        proto.input.extend(v for v in values if v.name in declared or (v.name in names and v.name in graph.overridable))
        self._value_infos(proto, graph, names)

    def _initializers(self, proto: GraphProto, params: list[Param]) -> None:
        tensors = [self._initializer(param) for param in params]
        del proto.initializer[:]
        proto.initializer.extend(tensors)

    def _initializer(self, param: Param) -> TensorProto:
        record = param.record
        if isinstance(record, TensorProto):
            if record.name == param.name:
                return record
            tensor = TensorProto()
            tensor.CopyFrom(record)
            tensor.name = param.name
            return tensor
        size = raw_bytes(ELEMENT_TYPES[param.dtype], param.shape)
        if size <= INLINE_BYTES or param.dtype.itemsize * param.size != size:
            return to_proto(param)
        tensor = to_header(param)
        self.payloads.put(tensor, Computed(param, size))
        return tensor

    def _value_infos(self, proto: GraphProto, graph: ModelGraph, params: set[str]) -> None:
        values = [v for v in proto.value_info if graph.producer(v.name) is not None or v.name in params]
        if len(values) != len(proto.value_info):
            del proto.value_info[:]
            proto.value_info.extend(values)

    def node(self, op: Op, graph: ModelGraph) -> NodeProto:
        record = op.record
        if isinstance(record, NodeProto) and not op.subgraphs:
            return record
        node = NodeProto(op_type=op.type, name=op.label or op.name, domain=op.domain)
        source = op.attributes.node if isinstance(op.attributes, Attributes) else None
        if isinstance(record, NodeProto):
            node.CopyFrom(record)
            del node.input[:], node.output[:], node.attribute[:]
        node.input.extend(op.inputs)
        node.output.extend(op.outputs)
        if source is not None:
            node.attribute.extend(a for a in source.attribute if a.type not in GRAPH_TYPES)
        else:
            version = graph.opsets.get(op.domain, 1)
            node.attribute.extend(
                encode(name, value, op.type, op.domain, version)
                for name, value in op.attributes.items()
                if value is not None
            )
        if op.subgraphs and isinstance(record, NodeProto):
            for attribute in record.attribute:
                if attribute.type in GRAPH_TYPES:
                    copy = node.attribute.add()
                    copy.CopyFrom(attribute)
                    for key, body in bodies(copy):
                        self.graph(body, op.subgraphs[key])
        return node


def reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs may capture included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type in GRAPH_TYPES:
            for _, body in bodies(attribute):
                for inner in body.node:
                    yield from reads(inner)
                yield from (value.name for value in body.output)


def save(path: Path, model: ModelProto, payloads: Payloads) -> None:
    """Write a skeleton and its payloads as one file, atomically. Raises OutputError."""

    def emit(header: bytes, mark: int) -> Pieces:
        payload = payloads[mark]
        return [header, length_field(payload.field, len(payload)), payload]

    pieces = splice(model.SerializeToString(), payloads.nonce, emit)
    if sum(map(len, pieces)) > MAX_MESSAGE_BYTES:
        raise OutputError(f"{path} would be larger than 2 GB")
    with atomic_write(path) as out:
        for piece in pieces:
            if isinstance(piece, Payload):
                piece.write(out)
            else:
                out.write(piece)
