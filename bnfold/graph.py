"""A trained model as a graph of operators, the same for every file format.

A :class:`ModelGraph` holds operators (:class:`Op`), the constants they read (:class:`Param`) and
what is known about the tensors between them (:class:`Tensor`). It answers the questions folding
asks: who produces this tensor, who reads it, is it a constant, does anyone else observe it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import networkx

Array = NDArray[Any]
Dim = int | str | None
Shape = tuple[Dim, ...]

#: The slot of a :class:`Use` that is a read from inside a subgraph (If, Loop, Scan), not an input.
CAPTURE = -1
#: Weights are read, checked and written in pieces of about this many bytes. They are computed in
#: float64: pieces for which the system need not be asked for memory each time take a third of the time.
BLOCK_BYTES = 1 << 16


class Limits(NamedTuple):
    """What a floating-point dtype can hold."""

    largest: float
    smallest_normal: float
    eps: float


def float_limits(dtype: np.dtype[Any]) -> Limits:
    """The limits of float16, bfloat16, float32 or float64."""
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return Limits(float(info.max), float(info.smallest_normal), float(info.eps))


class Source(Protocol):
    """Where a constant's values live. Nothing is read before one of these methods is called."""

    def read(self) -> Array:
        """The whole array, in the Param's shape and dtype. It may be read-only."""

    def rows(self, start: int, stop: int) -> Array:
        """Only ``array[start:stop]`` along the first axis."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Values that are in memory already; float64 values of a narrower Param are rounded when read."""

    values: Array
    dtype: np.dtype[Any]

    def read(self) -> Array:
        return np.asarray(_cast(self.values, self.dtype))

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(_cast(self.values[start:stop], self.dtype))


@dataclass(frozen=True, slots=True)
class Derived:
    """``base`` times ``factors``, plus ``terms``: float64 arrays that broadcast, rounded once, when read.

    ``steps`` holds them in order, with True for a factor. Keeping the result unevaluated means that a
    weight changed several times is still rounded once, and that a large one is never held in memory.
    """

    base: Param
    steps: tuple[tuple[bool, NDArray[np.float64]], ...]

    def exact(self, start: int, stop: int) -> NDArray[np.float64]:
        block = self.base.exact_rows(start, stop)
        for is_factor, values in self.steps:
            part = values if values.shape[0] == 1 else values[start:stop]
            block = block * part if is_factor else block + part
        return block

    def read(self) -> Array:
        return self.rows(0, self.base.shape[0])

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(_cast(self.exact(start, stop), self.base.dtype))


def _cast(values: Array, dtype: np.dtype[Any]) -> Array:
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Param:
    """A constant: name, dtype and shape are known, its values are read only when asked for.

    ``record`` is the file format's own note of where an unchanged constant came from, so that it
    can be copied to the output without being read; it is None for one that folding made.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source: Source
    record: object | None = None

    @classmethod
    def of(cls, name: str, values: Array, dtype: np.dtype[Any] | None = None) -> Param:
        """A constant held in memory. float64 ``values`` stay exact until they are written as ``dtype``."""
        dtype = np.dtype(values.dtype if dtype is None else dtype)
        return cls(name, dtype, tuple(values.shape), Memory(values, dtype))

    @property
    def size(self) -> int:
        """The number of elements."""
        count = 1
        for dim in self.shape:
            count *= dim
        return count

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """float16, float32, float64 or bfloat16 (whose numpy kind is not 'f')."""
        return self.dtype.kind == "f" or self.dtype.name == "bfloat16"

    def array(self) -> Array:
        """The values, rounded to :attr:`dtype`."""
        return self.source.read()

    def exact(self) -> NDArray[np.float64]:
        """The values in float64, without the rounding to :attr:`dtype` where folding computed them."""
        if not self.shape:
            values = self.source.values if isinstance(self.source, Memory) else self.array()
            return np.asarray(values, dtype=np.float64)
        return self.exact_rows(0, self.shape[0])

    def exact_rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """:meth:`exact`, only ``[start:stop]`` along the first axis."""
        if isinstance(self.source, Derived):
            return self.source.exact(start, stop)
        if isinstance(self.source, Memory):
            return np.asarray(self.source.values[start:stop], dtype=np.float64)
        return np.asarray(self.source.rows(start, stop), dtype=np.float64)

    def scaled(self, factor: NDArray[np.float64]) -> Param:
        """This constant times ``factor`` (float64, of the same rank, one that broadcasts against it)."""
        return self._derived(True, factor)

    def shifted(self, term: NDArray[np.float64]) -> Param:
        """This constant plus ``term`` (float64, of the same rank, one that broadcasts against it)."""
        return self._derived(False, term)

    def _derived(self, is_factor: bool, values: NDArray[np.float64]) -> Param:
        if values.ndim != len(self.shape) or np.broadcast_shapes(values.shape, self.shape) != self.shape:
            raise ValueError(f"an array of shape {values.shape} does not fit {self.name} {self.shape}")
        if not self.shape:
            exact = self.exact()
            return Param.of(self.name, exact * values if is_factor else exact + values, self.dtype)
        base, steps = (self.source.base, self.source.steps) if isinstance(self.source, Derived) else (self, ())
        return Param(self.name, self.dtype, self.shape, Derived(base, (*steps, (is_factor, values))))

    def renamed(self, name: str) -> Param:
        return replace(self, name=name)

    def row_blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
        """Ranges ``(start, stop)`` along the first axis that hold about ``max_bytes`` each."""
        if not self.shape or not self.size:
            return
        row = max(1, self.nbytes // self.shape[0])
        step = max(1, max_bytes // row)
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[Array]:
        """The values in C order, in contiguous pieces of about ``max_bytes``: for writing."""
        if not self.shape:
            yield np.ascontiguousarray(self.array())
            return
        for start, stop in self.row_blocks(max_bytes):
            yield np.ascontiguousarray(self.source.rows(start, stop))


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known about a value: its dtype and shape (sizes, symbols, or None where unknown)."""

    name: str
    dtype: np.dtype[Any] | None = None
    shape: Shape | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One operator: immutable, so that graphs can share it.

    ``name`` is unique within the graph. ``inputs`` and ``outputs`` name tensors; ``""`` stands for
    an optional one that is left out. ``label`` is how messages call it (the file's node name, the
    user's layer name). ``origin`` ties together operators that came from one layer.
    ``record`` is the file format's own object for an operator that folding did not touch.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    label: str = ""
    origin: str = ""
    subgraphs: Mapping[str, ModelGraph] = field(default_factory=dict)
    captures: tuple[str, ...] = ()
    record: object | None = None

    @property
    def display(self) -> str:
        """The name for people: the file's own, or the first output of a nameless node."""
        return self.label or next((name for name in self.outputs if name), self.name)

    def input(self, slot: int) -> str:
        """The name of the tensor in ``slot``, ``""`` where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else ""


class Use(NamedTuple):
    """One read of a tensor: by which operator, in which input slot (:data:`CAPTURE`: in a subgraph)."""

    op: str
    slot: int


#: The outputs of an operator, given the constants among its inputs (None for the others) and the
#: graph that knows their types; or None where they are not constant.
Evaluator = Callable[["ModelGraph", Op, Sequence[Param | None]], "Sequence[Param] | None"]
Inference = Callable[["ModelGraph"], Mapping[str, Tensor]]


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
        format: str = "onnx",
        opsets: Mapping[str, int] | None = None,
        parent: ModelGraph | None = None,
        evaluate: Evaluator | None = None,
        infer: Inference | None = None,
    ) -> None:
        self.name = name
        self.format = format
        self.opsets: dict[str, int] = dict(opsets or {})
        self.parent = parent
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, None] = {}
        self.params: dict[str, Param] = {}
        #: Names of params that the caller of the model may override: they are graph inputs too.
        self.overridable: set[str] = set()
        self._freeze_overridable = True
        self._evaluate = evaluate
        self._infer = infer
        self._ops: dict[str, Op] = {}
        self._position: dict[str, tuple[int, ...]] = {}
        self._inserted = False
        self._last = -1
        self._producer: dict[str, str] = {}
        self._uses: dict[str, dict[Use, None]] = {}
        self._tensors: dict[str, Tensor] = {}
        self._inferred = infer is None
        self._computed: dict[str, Param | None] = {}
        self._taken: set[str] | None = None
        #: The last number that :meth:`fresh` gave to a stem.
        self._counts: dict[str, int] = {}
        self._digraph: networkx.MultiDiGraph[str] | None = None

    # -- reading ---------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the caller feeds, in order; overridable params are not among them."""
        return tuple(self._inputs.values())

    @inputs.setter
    def inputs(self, values: Iterable[Tensor]) -> None:
        self._inputs = {value.name: value for value in values}
        self._tensors.update(self._inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the tensors that the model returns, in order."""
        return tuple(self._outputs)

    @outputs.setter
    def outputs(self, names: Iterable[str]) -> None:
        self._outputs = dict.fromkeys(names)

    @property
    def freeze_overridable(self) -> bool:
        """Whether :meth:`constant` treats overridable params as constants (it does by default)."""
        return self._freeze_overridable

    @freeze_overridable.setter
    def freeze_overridable(self, freeze: bool) -> None:
        self._freeze_overridable = freeze
        for graph in walk(self):
            graph._computed.clear()

    def __len__(self) -> int:
        return len(self._ops)

    def __contains__(self, op: str) -> bool:
        return op in self._ops

    def op(self, name: str) -> Op:
        """The operator of that name. Raises KeyError."""
        return self._ops[name]

    def ops(self) -> list[Op]:
        """All operators in the order of the file, inserted ones beside those they came from."""
        if self._inserted:
            names = sorted(self._ops, key=self._position.__getitem__)
            self._ops = {name: self._ops[name] for name in names}
            self._inserted = False
        return list(self._ops.values())

    def position(self, op: str) -> tuple[int, ...]:
        """Where the operator stands in :meth:`ops`: positions compare as the order does."""
        return self._position[op]

    def producer(self, tensor: str) -> Op | None:
        """The operator whose output it is; None for an input, a param or an outer tensor."""
        name = self._producer.get(tensor)
        return None if name is None else self._ops[name]

    def consumers(self, tensor: str) -> list[Use]:
        """Every read of the tensor in this graph, captures by subgraphs included."""
        return list(self._uses.get(tensor, ()))

    def uses(self, tensor: str) -> Iterable[Use]:
        """:meth:`consumers` without a copy: not to be kept over a change of the graph."""
        return self._uses.get(tensor, {}).keys()

    def use_count(self, tensor: str) -> int:
        return len(self._uses.get(tensor, ()))

    def is_output(self, tensor: str) -> bool:
        return tensor in self._outputs

    def is_input(self, tensor: str) -> bool:
        return tensor in self._inputs

    def captured(self, tensor: str) -> Op | None:
        """The operator in whose subgraph the tensor is read by name, if any."""
        for use in self._uses.get(tensor, ()):
            if use.slot == CAPTURE:
                return self._ops[use.op]
        return None

    def observed(self, tensor: str, *besides: Use) -> str | None:
        """Who sees this tensor other than ``besides``: a phrase for a sentence, or None if nobody does."""
        if self.is_output(tensor):
            return self.output_phrase
        return next((self.reader_phrase(use) for use in self.uses(tensor) if use not in besides), None)

    @property
    def output_phrase(self) -> str:
        """How a sentence calls an output of this graph."""
        return "the model's output" if self.parent is None else "an output of the subgraph"

    def reader_phrase(self, use: Use) -> str:
        """How a sentence calls the reader of a tensor."""
        reader = self._ops[use.op].display
        return f"the body of {reader}" if use.slot == CAPTURE else reader

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
            self._run_inference()
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
        names = (name for op in self._ops.values() for name in op.outputs if name)
        known = (self._tensors.get(name) for name in names)
        if any(tensor is None or tensor.shape is None or tensor.dtype is None for tensor in known):
            self._run_inference()
        self._inferred = True

    def known_tensors(self) -> Mapping[str, Tensor]:
        """What has been declared or inferred so far, by name."""
        return self._tensors

    def rank(self, tensor: str) -> int | None:
        return self.tensor(tensor).rank

    def dim(self, tensor: str, axis: int) -> int | None:
        """The static size of one axis, or None where it is not known."""
        shape = self.tensor(tensor).shape
        if shape is None or axis >= len(shape):
            return None
        size = shape[axis]
        return size if isinstance(size, int) else None

    @property
    def digraph(self) -> networkx.MultiDiGraph[str]:
        """The graph for networkx: nodes are operator names with their ``op``, an edge runs from
        producer to consumer and carries ``tensor`` and ``slot``. Built on first use and rebuilt
        after a change; treat it as read-only.
        """
        if self._digraph is None:
            import networkx  # 0.1 s to import, which a plain fold need not pay

            graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=self.name)
            for op in self.ops():
                graph.add_node(op.name, op=op)
            for tensor, uses in self._uses.items():
                if tensor in self._producer:
                    for use in uses:
                        graph.add_edge(self._producer[tensor], use.op, tensor=tensor, slot=use.slot)
            self._digraph = graph
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
        other._position = dict(self._position)
        other._producer = dict(self._producer)
        other._uses = {tensor: dict(uses) for tensor, uses in self._uses.items()}
        other._tensors = dict(self._tensors)
        other._computed = dict(self._computed)
        other._taken = None
        other._counts = {}
        other._digraph = None
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
        old = self._ops.get(op.name)
        if old is not None:
            self._unlink(old)
        else:
            self._last += 1
            # Right behind: before everything that came behind the same operator earlier.
            self._position[op.name] = (self._last,) if after is None else (*self._position[after], -self._last)
            self._inserted = self._inserted or after is not None
        self._ops[op.name] = op
        for tensor in op.outputs:
            if not tensor:
                continue
            if tensor in self._producer:
                raise ValueError(f"tensor {tensor!r} has two producers: {self._producer[tensor]} and {op.name}")
            self._producer[tensor] = op.name
        for slot, tensor in enumerate(op.inputs):
            if tensor:
                self._uses.setdefault(tensor, {})[Use(op.name, slot)] = None
        for tensor in op.captures:
            self._uses.setdefault(tensor, {})[Use(op.name, CAPTURE)] = None
        self._digraph = None

    def remove(self, name: str) -> None:
        """Take an operator out. Its outputs are then without a producer."""
        self._unlink(self._ops.pop(name))
        del self._position[name]
        self._digraph = None

    def _unlink(self, op: Op) -> None:
        for tensor in op.outputs:
            if tensor:
                del self._producer[tensor]
                self._computed.pop(tensor, None)
        for slot, tensor in enumerate(op.inputs):
            if tensor:
                self._drop_use(tensor, Use(op.name, slot))
        for tensor in op.captures:
            self._drop_use(tensor, Use(op.name, CAPTURE))

    def _drop_use(self, tensor: str, use: Use) -> None:
        uses = self._uses[tensor]
        uses.pop(use, None)
        if not uses:
            del self._uses[tensor]

    def rewire(self, use: Use, tensor: str) -> None:
        """Make one input slot read another tensor."""
        op = self._ops[use.op]
        inputs = list(op.inputs)
        inputs[use.slot] = tensor
        self.put(replace(op, inputs=tuple(inputs), record=None))

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
        if root._taken is None:
            root._taken = set()
            root._collect_names(root._taken)
        name, count = stem, root._counts.get(stem, 1)
        if count > 1 or stem in root._taken:
            count += 1
            while (name := f"{stem}_{count}") in root._taken:
                count += 1
            root._counts[stem] = count
        root._taken.add(name)
        return name

    def _collect_names(self, names: set[str]) -> None:
        names.update(self._ops)
        names.update(self._producer)
        names.update(self._uses)
        names.update(self.params)
        names.update(self._tensors)
        names.update(self._outputs)
        names.update(self._inputs)
        for op in self._ops.values():
            if op.label:
                names.add(op.label)
            for body in op.subgraphs.values():
                body._collect_names(names)

    # -- within ----------------------------------------------------------------------------------

    def _run_inference(self) -> None:
        """Fill in what inference knows and nobody has declared."""
        self._inferred = True
        for key, value in (self._infer(self) if self._infer else {}).items():
            mine = self._tensors.get(key)
            if mine is None or mine.shape is None or mine.dtype is None:
                dtype = mine.dtype if mine is not None and mine.dtype is not None else value.dtype
                shape = mine.shape if mine is not None and mine.shape is not None else value.shape
                self._tensors[key] = Tensor(key, dtype, shape)

    def _compute(self, tensor: str) -> None:
        """Evaluate the operators behind ``tensor`` as far as they stand on constants alone.

        Walks with a stack of its own: a chain of constants may be longer than Python recurses.
        """
        stack = [tensor]
        while stack:
            name = stack[-1]
            op = self.producer(name)
            if name in self._computed or op is None:
                stack.pop()
                continue
            waiting = [i for i in op.inputs if i in self._producer and i not in self._computed]
            if waiting and self._evaluate is not None and not op.captures:
                stack.extend(waiting)
                continue
            values = None
            inputs = [self.constant(i) for i in op.inputs]
            # Without the first, no operator has a value.
            if (
                self._evaluate is not None
                and not op.captures
                and (not inputs or inputs[0] is not None or not op.inputs[0])
            ):
                values = self._evaluate(self, op, inputs)
            for index, output in enumerate(op.outputs):
                if output:
                    self._computed[output] = None if values is None else values[index]
            stack.pop()


class Staged(Protocol):
    """A file that is complete and has not got its name yet."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    def commit(self) -> None:
        """Give it its name, in the place of what has it. Raises OutputError."""


class Model(Protocol):
    """A model of some file format: the graph, and the way back to a file."""

    @property
    def graph(self) -> ModelGraph: ...

    @property
    def path(self) -> Path | None:
        """The file it was read from; None for one that was built in memory."""

    @property
    def format(self) -> str:
        """``"onnx"`` or ``"keras"``."""

    def with_graph(self, graph: ModelGraph) -> Model:
        """The same model (metadata, opset…) around a changed graph."""

    def save(self, path: str | PathLike[str]) -> None:
        """Write to ``path`` atomically. The suffix decides the format."""

    def stage(self, path: str | PathLike[str], *, external_data: bool | None = None) -> AbstractContextManager[Staged]:
        """The complete file beside ``path`` under a temporary name, dropped unless it is committed in the block.

        ``external_data`` puts an ONNX model's weights into a file of their own; None: where they have to be.
        """

    def as_onnx(self, directory: Path) -> Path:
        """An ONNX file of this model for onnxruntime: its own where nothing changed, else one
        written into ``directory``.
        """


def walk(graph: ModelGraph) -> Iterable[ModelGraph]:
    """The graph and every subgraph inside it, outermost first."""
    yield graph
    for op in graph.ops():
        for body in op.subgraphs.values():
            yield from walk(body)
