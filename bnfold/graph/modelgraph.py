"""Operators and the tensors that run between them, with the questions that folding and analysis ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from bnfold.graph.elements import Op, Tensor, Use
from bnfold.graph.names import Names
from bnfold.graph.order import Order, Place
from bnfold.graph.parameters import Param
from bnfold.graph.uses import Uses

if TYPE_CHECKING:
    import networkx


class Evaluator(Protocol):
    """What a file format knows of the values of operators."""

    def __call__(self, graph: ModelGraph, op: Op, inputs: Sequence[Param | None], /) -> Sequence[Param] | None:
        """The outputs of an operator, given the constants among its inputs; None where they are not constant.

        None stands for the other inputs, of which the graph knows the types. Where the first is none, it comes alone.
        """


class Inference(Protocol):
    """What a file format knows of the shapes and dtypes of a graph."""

    def __call__(self, graph: ModelGraph, /) -> Mapping[str, Tensor]:
        """What can be told of the tensors, by name."""


class ModelGraph:
    """Operators and the tensors that run between them.

    Built by a file format, read by analysis, changed by folding on its own :meth:`copy`. Operators
    keep the order of the file; the format supplies ``evaluate`` (the value of an operator whose
    inputs are constants, or None) and ``infer`` (shapes of all tensors), both called only on need.
    """

    def __init__(
        self,
        *,
        name: str = "",
        dialect: object | None = None,
        opsets: Mapping[str, int] | None = None,
        parent: ModelGraph | None = None,
        evaluate: Evaluator | None = None,
        infer: Inference | None = None,
    ) -> None:
        self.name = name
        #: The dialect of the format that it came from, which the rooms above ask; the graph does not.
        self.dialect: object | None = dialect if parent is None or dialect is not None else parent.dialect
        self.opsets: dict[str, int] = dict(opsets or {})
        self.parent = parent
        #: What reading the file had to mend, in words.
        self.notes: tuple[str, ...] = ()
        #: Has it become another one than the file says?
        self.edited = False
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, None] = {}
        self.params: dict[str, Param] = {}
        #: Names of params that the caller of the model may override: they are graph inputs too.
        self.overridable: set[str] = set()
        self._freeze_overridable = True
        self._evaluate = evaluate
        self._infer = infer
        self._ops: dict[str, Op] = {}
        #: Where operators stand, once somebody asks for it or puts one between others.
        self._order: Order | None = None
        #: Does the dictionary of operators stand in that order?
        self._sorted = True
        self._producer: dict[str, str] = {}
        self._uses = Uses()
        self._tensors: dict[str, Tensor] = {}
        self._inferred = infer is None
        self._computed: dict[str, Param | None] = {}
        self._names: Names | None = None
        self._digraph: networkx.MultiDiGraph[str] | None = None
        #: What :meth:`remember` was told, by question.
        self._recalled: dict[str, dict[Op, Any]] = {}

    # -- reading ---------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the caller feeds, in order; overridable params are not among them."""
        return tuple(self._inputs.values())

    @inputs.setter
    def inputs(self, values: Iterable[Tensor]) -> None:
        self.edited = True
        self._inputs = {value.name: value for value in values}
        self._tensors.update(self._inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the tensors that the model returns, in order."""
        return tuple(self._outputs)

    @outputs.setter
    def outputs(self, names: Iterable[str]) -> None:
        self.edited = True
        self._outputs = dict.fromkeys(names)

    @property
    def freeze_overridable(self) -> bool:
        """Whether :meth:`constant` treats overridable params as constants (it does by default)."""
        return self._freeze_overridable

    @freeze_overridable.setter
    def freeze_overridable(self, freeze: bool) -> None:
        if freeze == self._freeze_overridable:
            return
        self._freeze_overridable = freeze
        for graph in walk(self):
            graph._computed.clear()
            graph._recalled.clear()

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(tensor.name for tensor in self.inputs), ", ".join(self.outputs)
        return f"<ModelGraph {self.name}: {len(self)} operators, {inputs} → {outputs}>"

    def __len__(self) -> int:
        return len(self._ops)

    def __contains__(self, op: str) -> bool:
        return op in self._ops

    def op(self, name: str) -> Op:
        """The operator of that name. Raises KeyError."""
        return self._ops[name]

    def ops(self) -> list[Op]:
        """All operators in the order of the file, inserted ones beside those they came from."""
        if not self._sorted:
            self._ops = {name: self._ops[name] for name in self._places().sorted(self._ops)}
            self._sorted = True
        return list(self._ops.values())

    def position(self, op: str) -> Place:
        """Where the operator stands in :meth:`ops`: positions compare as the order does."""
        return self._places()[op]

    def producer(self, tensor: str) -> Op | None:
        """The operator whose output it is; None for an input, a param or an outer tensor."""
        name = self._producer.get(tensor)
        return None if name is None else self._ops[name]

    def consumers(self, tensor: str) -> list[Use]:
        """Every read of the tensor in this graph, captures by subgraphs included."""
        return list(self._uses.of(tensor))

    def uses(self, tensor: str) -> Iterable[Use]:
        """:meth:`consumers` without a copy: not to be kept over a change of the graph."""
        return self._uses.of(tensor)

    def use_count(self, tensor: str) -> int:
        return self._uses.count(tensor)

    def is_used(self, tensor: str) -> bool:
        """Does an operator read the tensor, or the model return it?"""
        return tensor in self._uses or tensor in self._outputs

    def is_output(self, tensor: str) -> bool:
        return tensor in self._outputs

    def is_input(self, tensor: str) -> bool:
        return tensor in self._inputs

    def captured(self, tensor: str) -> Op | None:
        """The operator in whose subgraph the tensor is read by name, if any."""
        for use in self._uses.of(tensor):
            if use.slot is None:
                return self._ops[use.op]
        return None

    def sole_reader(self, tensor: str) -> Use | None:
        """The one read of a tensor, by an input, if nobody else sees it."""
        use = self._uses.sole(tensor)
        return None if use is None or use.slot is None or tensor in self._outputs else use

    def constant(self, tensor: str) -> Param | None:
        """The constant behind a tensor: a param, or the value of operators on constants alone."""
        if not tensor:
            return None
        param = self.params.get(tensor)
        if param is not None:
            return None if tensor in self.overridable and not self._freeze_overridable else param
        if tensor not in self._producer:
            if self.parent is not None and not self.is_input(tensor):
                return self.parent.constant(tensor)
            return None
        if tensor not in self._computed:
            self._compute(tensor)
        return self._computed[tensor]

    def tensor(self, name: str) -> Tensor:
        """What is known about a tensor; shapes are inferred for the whole graph on the first need."""
        param = self.params.get(name)
        if param is not None:
            return Tensor(name, param.dtype, param.shape)
        known = self._tensors.get(name)
        if known is not None and known.shape is not None and known.dtype is not None:
            return known
        if not self._inferred:
            self.infer_again()
            known = self._tensors.get(name)
        if known is None and self.parent is not None and name not in self._producer:
            return self.parent.tensor(name)
        return known if known is not None else Tensor(name)

    def complete_shapes(self) -> None:
        """Infer shapes now where some are missing, in the graphs around this one first.

        To be called before the graph is changed: in the middle of a change, inference would see half of it.
        """
        if self.parent is not None:
            self.parent.complete_shapes()
        if self._inferred:
            return
        for op in self._ops.values():
            for name in op.outputs:
                known = self._tensors.get(name) if name else None
                if name and (known is None or known.shape is None or known.dtype is None):
                    self.infer_again()
                    return
        self._inferred = True

    def infer_again(self) -> bool:
        """Infer shapes, anew after changes; was a size learned that was not known?"""
        self._inferred = True
        return self.learn(self._infer(self)) if self._infer is not None else False

    def learn(self, found: Mapping[str, Tensor]) -> bool:
        """Take in what inference found and nobody has declared; was a size learned that was not known?"""
        learned = changed = False
        for key, value in found.items():
            mine = self._tensors.get(key)
            if mine is None:
                self._tensors[key] = value
                learned |= value.shape is not None
                changed = True
                continue
            if mine is value or (mine.shape == value.shape and mine.dtype is not None):
                continue
            shape = mine.shape or value.shape
            if mine.shape is not None and value.shape is not None and len(mine.shape) == len(value.shape):
                pairs = zip(mine.shape, value.shape, strict=True)
                shape = tuple(new if isinstance(new, int) else old for old, new in pairs)
            learned |= shape != mine.shape
            changed = True
            self._tensors[key] = Tensor(key, value.dtype if mine.dtype is None else mine.dtype, shape)
        if changed:
            # Constants may follow from sizes and types that nobody knew before.
            self._computed = {name: value for name, value in self._computed.items() if value is not None}
        return learned

    def recalled(self, op: Op, question: str) -> Any:
        """What was remembered of an operator, None where nothing was, or it has changed since."""
        known = self._recalled.get(question)
        return None if known is None else known.get(op)

    def remember(self, op: Op, question: str, answer: object) -> None:
        """Keep an answer that takes long to find and does not depend on what other operators become."""
        self._recalled.setdefault(question, {})[op] = answer

    def known_tensors(self) -> Mapping[str, Tensor]:
        """What has been declared or inferred so far, by name."""
        return self._tensors

    def rank(self, tensor: str) -> int | None:
        return self.tensor(tensor).rank

    def dim(self, tensor: str, axis: int) -> int | None:
        """The static size of one axis, or None where it is not known."""
        shape = self.tensor(tensor).shape
        size = shape[axis] if shape is not None and axis < len(shape) else None
        return size if isinstance(size, int) else None

    @property
    def digraph(self) -> networkx.MultiDiGraph[str]:
        """The graph for networkx (:func:`digraph_of`): built on first use and after a change; treat it as read-only."""
        if self._digraph is None:
            from bnfold.graph.digraph import digraph_of

            self._digraph = digraph_of(self.name, self.ops(), self._uses, self._producer)
        return self._digraph

    # -- changing --------------------------------------------------------------------------------

    def copy(self, parent: ModelGraph | None = None) -> ModelGraph:
        """An independent graph that shares the immutable operators and constants."""
        other = ModelGraph.__new__(ModelGraph)
        other.__dict__.update(self.__dict__)
        other.opsets = dict(self.opsets)
        other.parent = parent if parent is not None else self.parent
        other._inputs = dict(self._inputs)
        other._outputs = dict(self._outputs)
        other.params = dict(self.params)
        other.overridable = set(self.overridable)
        other._ops = dict(self._ops)
        other._order = None if self._order is None else self._order.copy()
        other._producer = dict(self._producer)
        other._uses = self._uses.copy()
        other._tensors = dict(self._tensors)
        other._computed = dict(self._computed)
        other._names = None
        other._digraph = None
        other._recalled = {question: dict(known) for question, known in self._recalled.items()}
        for op in self._ops.values():
            if op.subgraphs:
                bodies = {key: body.copy(other) for key, body in op.subgraphs.items()}
                other._ops[op.name] = replace(op, subgraphs=bodies)
        return other

    def put(self, op: Op, *, after: str | None = None) -> None:
        """Add an operator, or replace the one of the same name in its place.

        A new one stands right behind the operator that ``after`` names; without it, at the end.
        Raises ValueError where an output is another operator's already.
        """
        self.edited = True
        old = self._ops.get(op.name)
        if old is not None:
            self._unlink(old)
        elif after is not None:
            self._places().insert(op.name, after)
            self._sorted = False
        elif self._order is not None:
            self._order.append(op.name)
        self._ops[op.name] = op
        for tensor in op.outputs:
            if not tensor:
                continue
            if tensor in self._producer:
                raise ValueError(f"tensor {tensor!r} has two producers: {self._producer[tensor]} and {op.name}")
            self._producer[tensor] = op.name
        self._uses.add_all(op)
        self._digraph = None

    def remove(self, name: str) -> None:
        """Take an operator out. Its outputs are then without a producer."""
        self.edited = True
        self._unlink(self._ops.pop(name))
        if self._order is not None:
            self._order.discard(name)
        self._digraph = None

    def release(self, name: str) -> None:
        """Let go of an operator's outputs, which others may then produce, until it is put anew."""
        self.edited = True
        self._drop_outputs(self._ops[name])

    def _unlink(self, op: Op) -> None:
        self._drop_outputs(op)
        self._uses.drop_all(op)

    def _drop_outputs(self, op: Op) -> None:
        for tensor in op.outputs:
            if self._producer.get(tensor) == op.name:  # unless it was released, and another one's since
                del self._producer[tensor]
                self._computed.pop(tensor, None)

    def rewire(self, use: Use, tensor: str) -> None:
        """Make one input slot read another tensor."""
        op = self._ops[use.op]
        if use.slot is None:
            raise ValueError(f"{op.display} reads the tensor inside a subgraph")
        self.edited = True
        inputs = list(op.inputs)
        self._uses.drop(inputs[use.slot], use)
        inputs[use.slot] = tensor
        self._ops[op.name] = op.between(tuple(inputs), op.outputs)
        self._uses.add(tensor, use)
        for output in op.outputs:
            self._computed.pop(output, None)
        self._digraph = None

    def declare(self, tensor: Tensor) -> None:
        """Record what is known about a tensor."""
        self._tensors[tensor.name] = tensor

    def forget(self, tensor: str) -> None:
        self._tensors.pop(tensor, None)

    def fresh(self, stem: str) -> str:
        """A tensor or operator name that no scope of this model uses yet."""
        root = self
        while root.parent is not None:
            root = root.parent
        if root._names is None:
            root._names = Names(*[names for graph in walk(root) for names in graph._own_names()])
        return root._names.fresh(stem)

    def _own_names(self) -> tuple[Iterable[str], ...]:
        labels = [op.label for op in self._ops.values()]
        return (
            self._ops, self._producer, self._uses, self.params, self._tensors, self._outputs, self._inputs, labels,
        )  # fmt: skip

    # -- within ----------------------------------------------------------------------------------

    def _places(self) -> Order:
        if self._order is None:
            self._order = Order()
            for name in self._ops:
                self._order.append(name)
        return self._order

    def _compute(self, tensor: str) -> None:
        """Evaluate the operators behind ``tensor`` as far as they stand on constants alone.

        Walks with a stack of its own: a chain of constants may be longer than Python recurses.
        """
        stack = [tensor]
        while stack:
            name = stack[-1]
            op = None if name in self._computed else self.producer(name)
            if op is None:
                stack.pop()
                continue
            values: Sequence[Param] | None = None
            if self._evaluate is not None and not op.captures:
                # Without the first, no operator has a value but one that asks for sizes.
                first = op.inputs[0] if op.inputs else ""
                if self._pending(first):
                    stack.append(first)
                    continue
                head = self.constant(first)
                if head is not None or not first:
                    inputs, others = [head], op.inputs[1:]
                    waiting = [tensor for tensor in others if self._pending(tensor)]
                    if waiting:
                        stack += waiting
                        continue
                    inputs += map(self.constant, others)
                    values = self._evaluate(self, op, inputs if op.inputs else [])
                else:
                    values = self._evaluate(self, op, [None])
            for index, output in enumerate(op.outputs):
                if output:
                    self._computed[output] = None if values is None else values[index]
            stack.pop()

    def _pending(self, tensor: str) -> bool:
        """Is it not known yet whether that tensor is constant?"""
        return tensor in self._producer and tensor not in self._computed


def walk(graph: ModelGraph) -> Iterable[ModelGraph]:
    """The graph and every subgraph inside it, outermost first."""
    yield graph
    for op in graph.ops():
        for body in op.subgraphs.values():
            yield from walk(body)
