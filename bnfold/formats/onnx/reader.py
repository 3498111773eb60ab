"""GraphProto → ModelGraph."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import NoReturn

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from bnfold.formats.onnx.attributes import GRAPH_TYPES, TENSOR_TYPES, Attributes, attribute_tensors, bodies
from bnfold.formats.onnx.build import UNLISTED_IR_VERSION
from bnfold.formats.onnx.context import Context, plain_domain
from bnfold.formats.onnx.evaluate import evaluator
from bnfold.formats.onnx.shapes import inference
from bnfold.formats.onnx.tensors import DTYPES, TensorError, to_param
from bnfold.formats.onnx.types import to_tensor
from bnfold.graph import Evaluator, Inference, ModelGraph, Op, Param, Tensor
from bnfold.operators.onnx import ONNX

_SPECIAL = GRAPH_TYPES | TENSOR_TYPES
_NO_SUBGRAPHS: Mapping[str, ModelGraph] = MappingProxyType({})


class NodeOrderError(Exception):
    """A node reads what a later one produces."""


def read_graph(context: Context) -> ModelGraph:
    """The main graph of a model. Raises ModelFileError where it does not hold together, and NodeOrderError."""
    return _Reader(context, context.skeleton.graph, evaluator(context), inference(context)).read()


class _Reader:
    """Reads one graph; ``outer`` reads the graph around it and has come to the node that holds this one.

    protobuf gives a slice of a field in a third of the time that walking along the field itself takes.
    """

    def __init__(
        self,
        context: Context,
        proto: GraphProto,
        evaluate: Evaluator,
        infer: Inference,
        outer: _Reader | None = None,
    ) -> None:
        self._context = context
        self._proto = proto
        self._evaluate = evaluate
        self._infer = infer
        self._outer = outer
        #: The tensors so far, by name: each name is one string, however often it stands in the file.
        self._known: dict[str, str] = {}
        self._names: set[str] = set()
        #: The same for types and domains.
        self._types: dict[str, str] = {}
        #: Tensors of the graphs around this one that are read in it or deeper inside.
        self._captures: dict[str, None] = {}
        self._graph: ModelGraph = ModelGraph(
            name=proto.name,
            dialect=ONNX,
            opsets=context.opsets,
            parent=None if outer is None else outer._graph,
            evaluate=evaluate,
            infer=infer,
        )

    def read(self) -> ModelGraph:
        graph, proto = self._graph, self._proto
        self._read_constants()
        inputs = [to_tensor(value) for value in proto.input]
        graph.inputs = [value for value in inputs if value.name not in graph.params]
        if self._context.skeleton.ir_version >= UNLISTED_IR_VERSION:
            graph.overridable = {value.name for value in inputs if value.name in graph.params}
        self._known.update((name, name) for name in (*graph.params, *(value.name for value in inputs)))
        for value in proto.value_info:
            graph.declare(to_tensor(value))
        for value in proto.output:
            graph.declare(to_tensor(value))
        graph.outputs = [value.name for value in proto.output]
        for index, node in enumerate(proto.node[:]):
            self._read_node(index, node)
        for name in graph.outputs:
            if name not in self._known:
                if not self._is_outer(name):
                    self._context.fail(f"has the output {name!r}, which nothing in it produces")
                self._captures[name] = None
        self._check_names()
        graph.edited = False
        return graph

    def _is_outer(self, tensor: str) -> bool:
        """Is there such a tensor in a graph around this one?"""
        reader = self._outer
        while reader is not None:
            if tensor in reader._known:
                return True
            reader = reader._outer
        return False

    def _check_names(self) -> None:
        # protobuf gives text that is not UTF-8 as bytes.
        for name in chain(self._known, self._names, self._types, (self._proto.name,)):
            if not isinstance(name, str):
                self._context.fail(f"is damaged: the name {name!r} in it is not UTF-8")

    def _read_constants(self) -> None:
        params = self._graph.params
        for tensor in self._proto.initializer[:]:
            name = tensor.name
            if name in params:
                self._context.fail(f"has two initializers named {name!r}")
            params[name] = self._to_param(tensor, "initializer", name)
        for sparse in self._proto.sparse_initializer:
            dtype = DTYPES.get(sparse.values.data_type)
            self._graph.declare(Tensor(sparse.values.name, dtype, tuple(sparse.dims)))
            self._known[sparse.values.name] = sparse.values.name

    def _to_param(self, tensor: TensorProto, what: str, name: str) -> Param:
        try:
            return to_param(tensor, self._context.payloads.of(tensor), name)
        except TensorError as error:
            self._context.fail(f"is damaged: {what} {name!r} {error}")

    def _read_node(self, index: int, node: NodeProto) -> None:
        known = self._known
        outputs, label, kind, domain = tuple(node.output[:]), node.name, node.op_type, node.domain
        kind, domain = self._types.setdefault(kind, kind), self._types.setdefault(domain, domain)
        name = self._unique(label or f"{kind}_{index}")
        inputs = []
        for tensor in node.input[:]:
            found = known.get(tensor)
            inputs.append(tensor if found is None else found)
            if found is None and tensor:
                if not self._is_outer(tensor):
                    self._fail_undefined(node, name, tensor)
                self._captures[tensor] = None
        special = [attribute for attribute in node.attribute[:] if attribute.type in _SPECIAL]
        subgraphs, captures = self._read_special(special, name) if special else (_NO_SUBGRAPHS, ())
        for tensor in outputs:
            if tensor in known:
                self._context.fail(f"gives the name {tensor!r} to two tensors, the second time in node {name!r}")
            if tensor:
                known[tensor] = tensor
        self._graph.put(
            Op(
                name,
                kind,
                tuple(inputs),
                outputs,
                Attributes(node, self._context.payloads),
                domain=plain_domain(domain),
                label=label,
                origin=label,
                subgraphs=subgraphs,
                captures=captures,
                record=node,
            )
        )

    def _unique(self, stem: str) -> str:
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return name

    def _fail_undefined(self, node: NodeProto, name: str, tensor: str) -> NoReturn:
        if any(tensor in other.output for other in self._proto.node):
            raise NodeOrderError
        self._context.fail(f"is damaged: node {name!r} ({node.op_type}) reads {tensor!r}, which nothing produces")

    def _read_special(
        self, attributes: list[AttributeProto], node: str
    ) -> tuple[Mapping[str, ModelGraph], tuple[str, ...]]:
        """Check the tensors of a node, and read its subgraphs: them, and what they capture from here or outside."""
        subgraphs: dict[str, ModelGraph] = {}
        captures: dict[str, None] = {}
        for attribute in attributes:
            for tensor in attribute_tensors(attribute):
                self._to_param(tensor, f"attribute {attribute.name!r} of node", node)
            for key, body in bodies(attribute):
                reader = _Reader(self._context, body, self._evaluate, self._infer, self)
                subgraphs[key] = reader.read()
                captures.update(reader._captures)
        self._captures.update((tensor, None) for tensor in captures if tensor not in self._known)
        return subgraphs, tuple(captures)
