"""The single changes of a graph of Keras layers that ``restyle`` is made of. Each leaves the graph whole."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from bnfold.graph import ModelGraph, Op, Param, Use
from bnfold.operators import batchnorm, linear_bias
from bnfold.operators.patterns import bias_slot, can_drop_bias, linear_layout, sole_reader
from bnfold.refusal import Refusal

#: The slot of a BN's moving mean, as the facts about Keras's layers have it.
MEAN = 3
#: What a new BN is, and the arguments that Keras gives one.
BATCHNORM = "BatchNormalization"
_NEW = {"momentum": 0.99, "epsilon": 1e-3, "center": True, "scale": True}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller chose for new and moved BN; None for what they have by themselves."""

    momentum: float | None = None
    epsilon: float | None = None

    def over(self, attributes: dict[str, object]) -> dict[str, object]:
        """The attributes with what was chosen."""
        given = {"momentum": self.momentum, "epsilon": self.epsilon}
        return {**attributes, **{name: value for name, value in given.items() if value is not None}}


def put_norm(graph: ModelGraph, tensor: str, axis: int, settings: Settings, *, norm: Op) -> None:
    """Put a BN that does nothing behind a tensor, whose name its output takes over.

    ``norm`` gives the name, the origin and the attributes; its scale and shift are there as it says. The readers of
    the tensor read the BN's output, and a model's output stays one.
    """
    attributes = settings.over({**_NEW, **norm.attributes, "axis": axis})
    producer = graph.producer(tensor)
    known = graph.tensor(tensor)
    if producer is None:
        source, output = tensor, graph.fresh(f"{norm.name}/output")
        graph.declare(replace(known, name=output))
        for use in graph.consumers(tensor):
            graph.rewire(use, output)
    else:
        source, output = graph.fresh(f"{tensor}/raw"), tensor
        graph.declare(replace(known, name=source))
        outputs = tuple(source if name == tensor else name for name in producer.outputs)
        graph.put(replace(producer, outputs=outputs, record=None))
    shape = known.shape
    size = shape[axis] if shape is not None else None
    assert isinstance(size, int), f"the channels of {tensor} are counted when its layer is built"
    weights = _identity(graph, norm.name, size, attributes, known.dtype)
    made = replace(norm, inputs=(source, *weights), outputs=(output,), attributes=attributes, record=None)
    graph.put(made, after=producer.name if producer is not None else None)


def _identity(
    graph: ModelGraph, name: str, size: int, attributes: dict[str, object], dtype: np.dtype[np.generic] | None
) -> list[str]:
    """Weights with which a BN does nothing: mean 0 and, where it has a scale, variance 1 and a scale to match."""
    epsilon = float(str(attributes["epsilon"]))
    scaled = bool(attributes["scale"])
    kind = np.promote_types(dtype if dtype is not None else np.float32, np.float32)
    values = {
        "gamma": np.full(size, np.sqrt(1 + epsilon)) if scaled else None,
        "beta": np.zeros(size) if attributes["center"] else None,
        "moving_mean": np.zeros(size),
        "moving_variance": np.full(size, 1.0 if scaled else 1 - epsilon),
    }
    names = []
    for attribute, vector in values.items():
        key = graph.fresh(f"{name}/{attribute}") if vector is not None else ""
        if vector is not None:
            graph.params[key] = Param.of(key, vector, kind)
        names.append(key)
    return names


def rename(graph: ModelGraph, name: str, like: Op) -> None:
    """Give an operator the name and the origin of another one that is gone."""
    op = graph.op(name)
    graph.remove(name)
    graph.put(replace(op, name=like.name, label=like.label, origin=like.origin), after=_before(graph, op))


def _before(graph: ModelGraph, op: Op) -> str | None:
    producer = graph.producer(op.input(0))
    return producer.name if producer is not None else None


def cut(graph: ModelGraph, norm: Op) -> None:
    """Take a BN out, whatever it computes."""
    source, output = norm.input(0), norm.outputs[0]
    graph.remove(norm.name)
    for use in graph.consumers(output):
        graph.rewire(use, source)
    if graph.is_output(output):
        name = graph.fresh(f"{norm.name}/gone")
        graph.put(Op(name, "Identity", (source,), (output,), domain=norm.domain, label=name))


# -- biases ------------------------------------------------------------------------------------------


def norm_behind(graph: ModelGraph, linear: Op, norms: Collection[str]) -> Op | None:
    """The BN that alone reads a linear layer, if it is one of ``norms``."""
    reader = sole_reader(graph, linear.outputs[0])
    return reader if reader is not None and reader.name in norms else None


def can_lose_bias(graph: ModelGraph, linear: Op, norm: Op) -> bool:
    """Has the layer a bias that the mean of the BN behind it can take: one number for each of its channels?"""
    bias, layout, known = linear_bias(graph, linear), linear_layout(graph, linear), batchnorm(graph, norm)
    if bias is None or layout is None or known is None or isinstance(known, Refusal):
        return False
    fits = layout.out_axis == known.axis and bias.size == known.channels
    return fits and can_drop_bias(graph, linear)


def drop_biases(graph: ModelGraph, pairs: list[tuple[Op, Op]]) -> None:
    """Take the one bias of a layer's calls into the means of the BN behind them: ``(Wx + b) - m = Wx - (m - b)``."""
    shifted: dict[str, str] = {}
    for linear, norm in pairs:
        bias, mean = linear_bias(graph, linear), graph.constant(norm.input(MEAN))
        assert bias is not None, "the caller asked whether it can go"
        assert mean is not None, "a BN has a mean"
        if mean.name not in shifted:
            key = graph.fresh(f"{norm.name}/moving_mean")
            graph.params[key] = Param.of(key, mean.exact() - bias.exact().reshape(-1), mean.dtype)
            shifted[mean.name] = key
        graph.rewire(Use(norm.name, MEAN), shifted[mean.name])
    for linear, _ in pairs:
        _set_bias(graph, linear, "", False)


def add_bias(graph: ModelGraph, linears: list[Op]) -> None:
    """Give all calls of a layer a bias of zeros, one for each of its output channels."""
    first = linears[0]
    layout = linear_layout(graph, first)
    assert layout is not None, "the caller asked where its channels lie"
    key = graph.fresh(f"{first.origin or first.name}/bias")
    graph.params[key] = Param.of(key, np.zeros(layout.out_channels), layout.weight.float_dtype)
    for linear in linears:
        _set_bias(graph, linear, key, True)


def _set_bias(graph: ModelGraph, linear: Op, name: str, present: bool) -> None:
    op, slot = graph.op(linear.name), bias_slot(linear)
    assert slot is not None, "every linear layer of Keras's can have a bias"
    inputs = [*op.inputs, *[""] * (slot + 1 - len(op.inputs))]
    inputs[slot] = name
    attributes = dict(op.attributes)
    if "use_bias" in attributes:
        attributes["use_bias"] = present
    if "bias_axes" in attributes:
        attributes["bias_axes"] = None  # with a bias, that is found from its shape when the layer is built
    graph.put(replace(op, inputs=tuple(inputs), attributes=attributes, record=None))
