"""What the facts about Keras's layers ask of a layer: its weights, shapes, channel axis and types."""

from __future__ import annotations

from bnfold.graph import ModelGraph, Param, Shape
from bnfold.operators.base import Node
from bnfold.refusal import Refusal

DOMAIN = "keras"


def weight_of(node: Node, slot: int) -> Param:
    """A weight that every layer of its class has."""
    param = node.const(slot)
    assert param is not None, f"{node.name} has no weight in slot {slot}"
    return param


def shape_of(graph: ModelGraph, tensor: str) -> Shape:
    """The shape of a tensor: Keras knows that of each, apart from some sizes."""
    shape = graph.tensor(tensor).shape
    assert shape is not None, f"{tensor} has no shape"
    return shape


def channel_axis(node: Node) -> int:
    """The channel axis of a layer: 1 with ``channels_first``, else the last."""
    return 1 if node.attr("data_format") == "channels_first" else len(shape_of(node.graph, node.op.input(0))) - 1


def conversion(node: Node, slot: int = 0) -> Refusal | None:
    """Refuse an affine of integers, and one that does more than its arithmetic where nobody else would do that.

    Layers convert floating-point numbers to the type they compute in by themselves, but no integers;
    operations convert nothing, and what the model returns keeps its type. An operation also drops the mask
    that Keras keeps beside a tensor, and a mask that is passed to a layer replaces that.
    """
    if node.attr("changes_mask"):
        return node.refuse("mask", "also changes the mask that a layer after it obeys")
    graph, output = node.graph, node.op.outputs[0]
    source, target = graph.tensor(node.op.input(slot)).dtype, graph.tensor(output).dtype
    if "float" not in str(source):
        return node.refuse("cast", "reads what is not floating point")
    seen = graph.is_output(output) or any(graph.op(use.op).type.startswith("ops.") for use in graph.uses(output))
    if source != target and seen:
        return node.refuse("cast", f"also converts {source} to {target}, the type in which its output is used")
    return None


def in_training(node: Node) -> Refusal | None:
    """Refuse everything where a layer is asked for what it does in training."""
    return node.refuse("training-mode", "is called in training mode") if node.attr("training") else None
