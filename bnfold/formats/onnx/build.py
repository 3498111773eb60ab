"""ModelGraph → ModelProto: the skeleton of the file to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from bnfold.formats.onnx.attributes import GRAPH_TYPES, Attributes, attribute_protos, bodies
from bnfold.formats.onnx.context import plain_domain
from bnfold.formats.onnx.payloads import Computed, Payloads
from bnfold.formats.onnx.tensors import ELEMENT_TYPES, raw_bytes, to_header, to_proto
from bnfold.formats.onnx.types import to_value_info
from bnfold.formats.onnx.wire import INLINE_BYTES
from bnfold.graph import ModelGraph, Op, Param, Tensor

#: From this IR version on an initializer need not be among the graph's inputs.
UNLISTED_IR_VERSION = 4


class Builder:
    """Writes graphs back into protos. The values of new constants go into ``payloads``, its own copy."""

    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads.copy()
        self._unlisted = False

    def model(self, skeleton: ModelProto, graph: ModelGraph) -> ModelProto:
        """A copy of ``skeleton`` with ``graph`` in the place of the graph it had.

        Before IR version 4 every initializer has to be among the inputs. Where new ones are not, the
        model becomes IR version 4 and none is, so that runtimes may treat them as constants.
        """
        model = ModelProto()
        model.CopyFrom(skeleton)
        listed = model.ir_version < UNLISTED_IR_VERSION
        # A training graph may read any initializer by name.
        self._fill(model.graph, graph, keep_unused=bool(skeleton.training_info))
        overridable = graph.params if listed and not self._unlisted else graph.overridable
        _keep(model.graph.input, lambda value: graph.is_input(value.name) or value.name in overridable)
        if listed and self._unlisted:
            model.ir_version = UNLISTED_IR_VERSION
        return model

    def new_graph(self, graph: ModelGraph) -> GraphProto:
        """A graph as if it had not come from a file."""
        proto = GraphProto(name=graph.name or "graph")
        self._fill(proto, graph)
        return proto

    def node(self, op: Op, graph: ModelGraph) -> NodeProto:
        """The node of an operator: its record from the file where nothing about it changed."""
        record = op.record
        if isinstance(record, NodeProto) and not op.subgraphs and _describes(record, op):
            return record
        base = _base(op)
        node = NodeProto()
        if base is not None:
            node.CopyFrom(base)
            del node.input[:], node.output[:]
        _set(node, "op_type", op.type)
        _set(node, "domain", op.domain if plain_domain(node.domain) != op.domain else node.domain)
        _set(node, "name", op.label if base is not None else op.label or op.name)
        node.input.extend(op.inputs)
        node.output.extend(op.outputs)
        if base is None or not _has_attributes_of(op, base):
            attributes = attribute_protos(op, graph.opsets.get(op.domain, 1))
            attributes += [attribute for attribute in node.attribute if attribute.type in GRAPH_TYPES]
            del node.attribute[:]
            node.attribute.extend(attributes)
        self._subgraphs(node, op)
        return node

    def _subgraphs(self, node: NodeProto, op: Op) -> None:
        new = dict(op.subgraphs)
        for attribute in node.attribute:
            for key, proto in bodies(attribute):
                self._fill(proto, new.pop(key))
        for name, body in new.items():
            node.attribute.append(AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.new_graph(body)))

    def _fill(self, proto: GraphProto, graph: ModelGraph, *, keep_unused: bool = False) -> None:
        """Change ``proto``, a copy of the graph in the file, to say what ``graph`` says."""
        nodes = [self.node(op, graph) for op in graph.ops()]
        params = list(graph.params.values()) if keep_unused else _needed_params(proto, graph, nodes)
        if proto.value_info:
            _update_value_infos(proto, graph)
        _replace(proto.node, nodes)
        _replace(proto.initializer, [self.initializer(param) for param in params])
        names = {param.name for param in params}
        _keep(proto.input, lambda value: graph.is_input(value.name) or value.name in names)
        _redeclare((*proto.input, *proto.value_info), params)
        listed = {value.name for value in proto.input}
        proto.input.extend(to_value_info(value) for value in graph.inputs if value.name not in listed)
        _update_outputs(proto, graph)
        self._unlisted = self._unlisted or not names <= listed

    def initializer(self, param: Param) -> TensorProto:
        record = param.record
        if isinstance(record, TensorProto):
            if record.name == param.name:
                return record
            tensor = TensorProto()
            tensor.CopyFrom(record)
            tensor.name = param.name
            return tensor
        size = raw_bytes(ELEMENT_TYPES[param.dtype], param.shape)
        # A dtype whose elements are not whole bytes is small in practice and packed as a whole.
        if size <= INLINE_BYTES or size != param.nbytes:
            return to_proto(param)
        tensor = to_header(param)
        self.payloads.put(tensor, Computed(param, size))
        return tensor


def _needed_params(proto: GraphProto, graph: ModelGraph, nodes: Sequence[NodeProto]) -> list[Param]:
    """The constants to write: those that are read, and those that nothing in the file read either."""
    unread = {name for name in graph.params if not graph.is_used(name)}
    if unread:
        unread -= _read_in_bodies(nodes).union(_annotations(proto))
        # What was of no use before is none of folding's business: it stays.
        unread &= _read_in_bodies(proto.node).union(*(node.input for node in proto.node))
    return [param for name, param in graph.params.items() if name not in unread]


def _read_in_bodies(nodes: Iterable[NodeProto]) -> set[str]:
    """The tensors that the subgraphs of these nodes read by name; some are the subgraphs' own."""
    names: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type in GRAPH_TYPES:
                for _, body in bodies(attribute):
                    names.update(*(inner.input for inner in body.node))
                    names.update(value.name for value in body.output)
                    names |= _read_in_bodies(body.node)
    return names


def _describes(record: NodeProto, op: Op) -> bool:
    return (
        _has_attributes_of(op, record)
        and tuple(record.input[:]) == op.inputs  # faster than to walk along the fields themselves
        and tuple(record.output[:]) == op.outputs
        and record.op_type == op.type
    )


def _set(node: NodeProto, field: str, value: str) -> None:
    if getattr(node, field) != value:  # a field that is absent in the file stays so
        setattr(node, field, value)


def _has_attributes_of(op: Op, node: NodeProto) -> bool:
    return isinstance(op.attributes, Attributes) and op.attributes.node is node


def _base(op: Op) -> NodeProto | None:
    """The node in the file that an operator came from, whose doc string and metadata it keeps."""
    if isinstance(op.record, NodeProto):
        return op.record
    return (
        op.attributes.node if isinstance(op.attributes, Attributes) and op.attributes.node.op_type == op.type else None
    )


def _annotations(proto: GraphProto) -> Iterator[str]:
    """Constants that quantization annotations refer to."""
    for annotation in proto.quantization_annotation:
        for entry in annotation.quant_parameter_tensor_names:
            yield entry.value


def _update_value_infos(proto: GraphProto, graph: ModelGraph) -> None:
    """Drop what is said about tensors that are gone; say of new ones what is known."""
    produced = {name for node in proto.node for name in node.output}
    _keep(
        proto.value_info,
        lambda v: v.name in graph.params or v.name not in produced or graph.producer(v.name) is not None,
    )
    known = graph.known_tensors()
    for op in graph.ops():
        for name in op.outputs:
            tensor = known.get(name, Tensor(name))
            is_new = name not in produced and not graph.is_output(name)
            if is_new and tensor.dtype is not None and tensor.shape is not None:
                proto.value_info.append(to_value_info(tensor))


def _redeclare(values: Iterable[ValueInfoProto], params: Iterable[Param]) -> None:
    """A constant that folding made anew may have grown: a bias of one number becomes one a channel."""
    new = {param.name: param for param in params if param.record is None}
    if not new:
        return
    for value in values:
        param = new.get(value.name)
        if param is not None:
            declared = to_value_info(Tensor(param.name, param.dtype, param.shape))
            value.type.tensor_type.CopyFrom(declared.type.tensor_type)


def _update_outputs(proto: GraphProto, graph: ModelGraph) -> None:
    """Outputs keep their declarations; those that were not outputs before get what is known of them."""
    declared = {value.name: value for value in proto.output}
    if tuple(declared) != graph.outputs:
        outputs = [declared.get(name) or to_value_info(graph.tensor(name)) for name in graph.outputs]
        _replace(proto.output, outputs)


def _replace(values: Any, new: Sequence[Any]) -> None:
    """Give a repeated field other contents; they may be part of it now."""
    copies = list(new)
    del values[:]
    values.extend(copies)


def _keep(values: Any, wanted: Callable[[Any], bool]) -> None:
    """Take out of a repeated field what is not wanted."""
    kept = [value for value in values if wanted(value)]
    if len(kept) != len(values):
        _replace(values, kept)
