"""The one place that looks into Keras's own graph of calls, which has no public interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any


def functional(keras: Any, model: Any) -> Any:
    """The Functional model behind a Functional or a built Sequential one; None for any other layer.

    A subclass with a ``call`` of its own is none: what it computes is not in the graph.
    """
    if isinstance(model, keras.Sequential):
        return model._functional if type(model).call is keras.Sequential.call else None
    if isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth"):
        base = next((cls for cls in type(model).__mro__ if "call" in vars(cls)), None)
        return model if base is not None and base.__module__.startswith("keras.") else None
    return None


def nodes(network: Any) -> Iterator[Any]:
    """The calls of a Functional model's layers, producers before consumers, inputs left out.

    Calls at one depth stand in the order of the model's layers, and those of one layer as they were made.
    """
    order = {id(operation): index for index, operation in enumerate(network.operations)}

    def place(node: Any) -> tuple[int, int]:
        return order[id(node.operation)], node.operation._inbound_nodes.index(node)

    for depth in sorted(network._nodes_by_depth, reverse=True):
        calls = [node for node in network._nodes_by_depth[depth] if not node.is_input]
        yield from sorted(calls, key=place)


def input_structure(network: Any) -> Any:
    """The inputs as the model is called on them: one tensor, or a list, tuple or dict of tensors."""
    return network._inputs_struct


def output_structure(network: Any) -> Any:
    """The outputs as the model returns them."""
    return network._outputs_struct


def input_layer(tensor: Any) -> Any:
    """The InputLayer that an input tensor of a Functional model comes from."""
    return tensor._keras_history.operation


def fill_in(keras: Any, node: Any, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with its tensors, in order, replaced by ``values``."""
    remaining = iter(values)

    def replace(argument: Any) -> Any:
        return next(remaining) if isinstance(argument, keras.KerasTensor) else argument

    args, kwargs = keras.tree.map_structure(replace, (node.arguments.args, node.arguments.kwargs))
    return tuple(args), dict(kwargs)


def operands(node: Any) -> list[Any]:
    """The positional arguments of a call, tensors and constants alike."""
    return list(node.arguments.args)


@dataclass(frozen=True, eq=False, slots=True)
class _Arguments:
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """The call of the layer inside a TimeDistributed on one step of each example, as if Keras had noted it."""

    operation: Any
    input_tensors: tuple[Any, ...]
    output_tensors: tuple[Any, ...]
    arguments: Any


def step(keras: Any, node: Any) -> Step | None:
    """What a TimeDistributed does for each step; None for any other layer, for steps that a mask may hide, and for a
    model inside that reads or returns anything but one tensor of the shape of a step.
    """
    layer = node.operation
    if type(layer) is not keras.layers.TimeDistributed or node.arguments.kwargs.get("mask") is not None:
        return None
    if len(node.input_tensors) != 1 or len(node.output_tensors) != 1:
        return None
    data, result = node.input_tensors[0], node.output_tensors[0]
    if getattr(data, "_keras_mask", None) is not None:
        return None
    inner = functional(keras, layer.layer)
    if inner is not None and [len(tensor.shape) for tensor in (*inner.inputs, *inner.outputs)] != [
        len(tensor.shape) - 1 for tensor in (data, result)
    ]:
        return None
    one, made = (keras.KerasTensor((None, *tensor.shape[2:]), tensor.dtype) for tensor in (data, result))
    return Step(layer.layer, (one,), (made,), _Arguments((one,)))


def asks_for_training(node: Any) -> bool:
    """Does a call ask for training behaviour, whatever the model is called for?

    A layer that trains unless it is told not to, as those that change pictures at random, asks for nothing: Keras
    notes its default with the call, and ``predict`` overrides that.
    """
    return bool(node.arguments.kwargs.get("training")) and not trains_by_default(node.operation)


def trains_by_default(layer: Any) -> bool:
    """Is ``training`` of the layer's call True if nobody says anything?"""
    parameter = signature(layer.call).parameters.get("training")
    return parameter is not None and parameter.default is True


def inferring_layers(keras: Any, network: Any) -> list[Any]:
    """The layers that a model calls, also in nested ones, of which no call asks for training behaviour."""
    found: dict[int, Any] = {}
    asked: set[int] = set()
    ahead = [(network, False)]
    while ahead:
        inner, training = ahead.pop()
        for node in nodes(inner):
            layer, trained = node.operation, training or asks_for_training(node)
            nested = functional(keras, layer)
            if nested is not None:
                ahead.append((nested, trained))
            elif "training" in signature(layer.call).parameters:
                found[id(layer)] = layer
                asked |= {id(layer)} if trained else set()
    return [layer for key, layer in found.items() if key not in asked]


def argument_names(keras: Any, node: Any) -> tuple[str, ...]:
    """For each tensor of a layer's call the argument of the layer that it is, or is in."""
    names = [*signature(node.operation.call).parameters]
    given = [*zip(names, node.arguments.args, strict=False), *sorted(node.arguments.kwargs.items())]
    return tuple(
        name for name, value in given for item in keras.tree.flatten(value) if isinstance(item, keras.KerasTensor)
    )


def map_tensors(keras: Any, structure: Any, function: Callable[[Any], Any]) -> Any:
    """The structure with ``function`` applied to each of its tensors."""
    return keras.tree.map_structure(function, structure)


def settings(keras: Any, node: Any) -> dict[str, Any]:
    """The keyword arguments of a call that hold no tensor, like ``training``; Keras finds masks by itself."""
    return {
        key: value
        for key, value in node.arguments.kwargs.items()
        if key != "mask" and not any(isinstance(item, keras.KerasTensor) for item in keras.tree.flatten(value))
    }
