"""Small ONNX models built operator by operator, folded, and compared with what they were.

:func:`fold` is what nearly every test of the operators and of the search calls: it folds a model and
asserts what has to hold for every fold: the outputs agree in onnxruntime with its optimisations off,
the result passes ``onnx.checker`` with strict shape inference, the interface is the same, and folding
again changes nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding import Plan, fold_graph
from bnfold.formats import load
from bnfold.graph import walk

Array = NDArray[Any]

#: How far outputs may differ, relative to the largest value of the output.
TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 2e-5, "float64": 1e-11}
#: Where the code lies whose work :func:`lines_of` counts.
PACKAGE = str(Path(bnfold.__file__).parent)
#: What a symbolic dimension is fed with.
SIZES = (2, 3)


class Net:
    """An ONNX graph under construction. Methods return the names of the tensors they make."""

    def __init__(self, *, opset: int = 17, ir_version: int = 8, seed: int = 0, dtype: Any = np.float32) -> None:
        self.opset = opset
        self.ir_version = ir_version
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}
        #: What certain inputs have to be fed with.
        self.feeds: dict[str, Array] = {}
        #: What every name begins with: names in a subgraph differ from those around it.
        self.prefix = ""
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return "_".join(filter(None, [self.prefix, stem.lower(), str(self._count)]))

    def info(self, name: str, shape: Sequence[Any] | None, dtype: Any = None) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype if dtype is None else dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    def input(self, *shape: Any, name: str = "", dtype: Any = None) -> str:
        """An input of these sizes, numbers or symbols."""
        name = name or self.name("x")
        self.inputs.append(self.info(name, shape, dtype))
        return name

    def unknown_rank(self, x: str, shape: Sequence[int]) -> str:
        """``x`` in a shape that nothing but the caller of the model knows, who feeds ``shape``."""
        self.feeds[f"{x}_shape"] = np.asarray(shape, dtype=np.int64)
        return str(self.op("Reshape", x, self.input("R", name=f"{x}_shape", dtype=np.int64)))

    def draw(self, *shape: int) -> Array:
        """Random values of the net's dtype."""
        return self.rng.normal(size=shape).astype(self.dtype)

    def positive(self, *shape: int) -> Array:
        """Random values between 0.5 and 1.5."""
        return self.rng.uniform(0.5, 1.5, size=shape).astype(self.dtype)

    def const(self, values: Any, name: str = "", dtype: Any = None) -> str:
        """An initializer."""
        name = name or self.name("w")
        array = np.asarray(values, dtype=self.dtype if dtype is None else dtype)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def op(
        self, kind: str, *inputs: Any, outputs: int | Sequence[str] = 1, name: str | None = None, **attrs: Any
    ) -> Any:
        """An operator; arrays among its inputs become initializers. One name, or a tuple of several."""
        name = self.name(kind) if name is None else name
        made = [f"{self.name(kind)}_out" for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        tensors = [value if isinstance(value, str) else self.const(value, dtype=_kept(value)) for value in inputs]
        self.nodes.append(helper.make_node(kind, tensors, made, name=name, **attrs))
        return made[0] if len(made) == 1 else tuple(made)

    def bn(self, x: str, channels: int, *, name: str | None = None, **attrs: Any) -> str:
        """A BatchNormalization with random parameters, as training leaves them."""
        parameters = [self.positive(channels), self.draw(channels), self.draw(channels), self.positive(channels)]
        return str(self.op("BatchNormalization", x, *parameters, name=name, **attrs))

    def exact_bn(self, x: str, scale: Any, shift: Any, *, name: str | None = None) -> str:
        """A BatchNormalization that is exactly ``scale * x + shift``, both vectors."""
        scale, shift = np.broadcast_arrays(np.asarray(scale, self.dtype), np.asarray(shift, self.dtype))
        zeros, ones = np.zeros(scale.shape, self.dtype), np.ones(scale.shape, self.dtype)
        return str(self.op("BatchNormalization", x, scale.copy(), shift.copy(), zeros, ones, name=name, epsilon=0.0))

    def output(self, *tensors: str, shape: Sequence[Any] | None = None, dtype: Any = None) -> None:
        """Make tensors outputs of the model; inference finds their types where ``shape`` is not given."""
        self.outputs += [self.info(tensor, shape, dtype) for tensor in tensors]

    def graph(self, name: str = "g") -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)

    def build(self, *outputs: str) -> ModelProto:
        """The model; ``outputs`` are added to those it has."""
        self.output(*outputs)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, version) for domain, version in self.domains.items()]
        model = helper.make_model(self.graph(), opset_imports=opsets, functions=self.functions)
        known = {value.name: value for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output}
        for value in model.graph.output:
            if not value.type.tensor_type.HasField("shape"):
                value.CopyFrom(known[value.name])
        model.ir_version = self.ir_version
        return model


def ints(*values: int) -> Array:
    """What ONNX wants sizes, axes and pads to be."""
    return np.array(values, dtype=np.int64)


def _kept(value: Any) -> Any:
    """The dtype of an array that has one of its own; None for Python numbers, which get the net's."""
    return value.dtype if isinstance(value, (np.ndarray, np.generic)) else None


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime with every optimisation off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def random_feeds(model: ModelProto, *, size: int = 2, seed: int = 0, high: int = 2) -> dict[str, Array]:
    """Values for every input: symbolic dimensions get ``size``, integers lie in ``[0, high)``."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        dims = value.type.tensor_type.shape.dim
        shape = [dim.dim_value if dim.HasField("dim_value") else size for dim in dims]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind == "b":
            feeds[value.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            feeds[value.name] = rng.integers(0, high, shape).astype(dtype)
        else:
            feeds[value.name] = rng.normal(size=shape).astype(dtype)
    return feeds


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs in onnxruntime."""
    return list(session(model).run(None, dict(feeds)))


def assert_close(expected: Sequence[Array], actual: Sequence[Array], *, slack: float = 1.0) -> None:
    """Equal dtype, shape and, to rounding relative to the output's range, values."""
    assert len(expected) == len(actual)
    for a, b in zip(expected, actual, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b)
            continue
        wide, other = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(wide)
        np.testing.assert_array_equal(wide[~finite], other[~finite])
        reach = float(np.abs(wide[finite]).max(initial=0.0))
        off = float(np.abs(wide[finite] - other[finite]).max(initial=0.0))
        assert off <= slack * TOLERANCE[a.dtype.name] * max(reach, 1e-3), f"off by {off:.3g} in a range of {reach:.3g}"


@dataclass
class Folded:
    """A model before and after, and what the plan says."""

    before: ModelProto
    after: ModelProto
    plan: Plan

    def count(self, *kinds: str) -> int:
        """Operators of these types after folding, in subgraphs too; of all types if none is named."""
        return count(self.after, *kinds)

    def node(self, kind: str) -> onnx.NodeProto:
        """The only operator of its type after folding."""
        (found,) = (node for node in self.after.graph.node if node.op_type == kind)
        return found

    def constant(self, name: str) -> Array:
        """An initializer after folding."""
        return constant(self.after, name)

    @property
    def codes(self) -> set[str]:
        """The codes of all refusals on either side of what stayed."""
        return {refusal.code for item in self.plan.remaining for refusal in (item.backward, item.forward)}

    @property
    def sentences(self) -> str:
        return " ".join(item.sentence() for item in self.plan.remaining)


def constant(model: ModelProto, name: str) -> Array:
    """An initializer."""
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def count(model: ModelProto, *kinds: str) -> int:
    """Operators of these types (all, if none is named), in subgraphs too."""
    return sum(number for kind, number in op_counts(model).items() if not kinds or kind in kinds)


def op_counts(model: ModelProto) -> Counter[str]:
    """How many operators of each type, in subgraphs too."""
    return Counter(op.type for graph in walk(load(model).graph) for op in graph.ops())


def interface(values: Iterable[onnx.ValueInfoProto], dropped: set[str]) -> list[bytes]:
    return [value.SerializeToString() for value in values if value.name not in dropped]


def fold(
    model: ModelProto, *, slack: float = 1.0, high: int = 2, feeds: Mapping[str, Array] | None = None, **options: Any
) -> Folded:
    """Fold a model, and assert everything that has to hold for any fold. ``options`` are ``fold_graph``'s."""
    folded = fold_unrun(model, **options)
    old, new = session(model), session(folded.after)
    for seed, size in enumerate(SIZES):
        values = {**random_feeds(model, size=size, seed=seed, high=high), **(feeds or {})}
        assert_close(old.run(None, values), new.run(None, values), slack=slack)
    return folded


def fold_unrun(model: ModelProto, **options: Any) -> Folded:
    """:func:`fold`, without comparing outputs."""
    before = model.SerializeToString()
    loaded = load(model)
    loaded = loaded.inlined()
    graph, plan = fold_graph(loaded.graph, **options)
    after = loaded.with_graph(graph).to_proto()
    assert model.SerializeToString() == before, "the model that was given has changed"
    onnx.checker.check_model(after, full_check=True)
    constants = {tensor.name for tensor in model.graph.initializer}
    assert interface(after.graph.input, constants) == interface(model.graph.input, constants)
    assert interface(after.graph.output, set()) == interface(model.graph.output, set())
    assert not unused(after), "constants that nobody reads are left"
    again = fold_graph(load(after).graph, **options)[1]
    assert not again.steps, [step.sentence() for step in again.steps]
    return Folded(model, after, plan)


def unused(model: ModelProto) -> set[str]:
    """Initializers of the main graph that nothing reads."""
    read: set[str] = {value.name for value in model.graph.output}

    def visit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            read.update(node.input)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    read.update(value.name for value in attribute.g.output)
                    visit(attribute.g)

    visit(model.graph)
    return {tensor.name for tensor in model.graph.initializer} - read


def assert_gone(folded: Folded, *kinds: str) -> None:
    """No operator of these types is left (BatchNormalization and per-channel arithmetic by default)."""
    kinds = kinds or ("BatchNormalization", "Mul", "Add", "Sub", "Div")
    assert folded.count(*kinds) == 0, folded.sentences


def assert_stays(folded: Folded, code: str, *words: str) -> None:
    """Nothing was folded, for the reason of that code, and the sentence names the ``words``."""
    assert not folded.plan.steps, [step.sentence() for step in folded.plan.steps]
    assert op_counts(folded.before) == op_counts(folded.after)
    assert code in folded.codes, folded.sentences
    for word in words:
        assert word in folded.sentences


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def lines_of(function: Callable[[], Any]) -> int:
    """How many lines of the package a call executes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
