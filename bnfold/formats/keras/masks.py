"""Where Keras's implicit masks flow, and which layers an affine cannot be taken out of because of them.

A tensor may carry a mask: an Embedding with ``mask_zero`` or a Masking layer attaches one to its output, layers that
support masking hand it on, operations and other layers drop it. A layer that obeys masks takes the one on its
input unless the call passes one, so that taking away what drops or replaces a mask would change what such a
layer computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.formats.keras.reading import Call, Reading
    from bnfold.graph import ModelGraph, Op

#: Layers that look for masks on their inputs by themselves.
_LOOK = ("Multiply", "Maximum", "Minimum")
#: What a layer's compute_mask has been seen to raise about symbolic masks, or may.
_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


def mark(keras: Any, reading: Reading) -> None:
    """Note on the operators of a model which masks count for folding, as two attributes.

    ``masked`` says that an input carries a mask; ``changes_mask`` that the output does not carry the mask of the
    input, and that somebody would obey the difference.
    """
    flow = _Flow(keras, reading)
    flow.run()
    for op, attribute in flow.marks():
        reading.graph.put(replace(op, attributes={**op.attributes, attribute: True}))


class _Flow:
    def __init__(self, keras: Any, reading: Reading) -> None:
        self.keras = keras
        self.reading = reading
        self.graph = reading.graph
        #: The tensors that carry a mask, and the operators whose mask is not the one of their input.
        self.masked: set[str] = set()
        self.changing: list[Op] = []

    def run(self) -> None:
        for op in self.graph.ops():
            call = self.reading.calls.get(op.name)
            before = any(name in self.masked for name in self._data(op, call))
            if call is None or op.name == call.activation:
                after, changes = before, False
            else:
                explicit = self._explicit(call)
                after = self._hands_on(call, before or explicit)
                changes = after != before or (explicit and after)
            if after:
                self.masked.update(op.outputs)
            if changes:
                self.changing.append(op)

    def marks(self) -> list[tuple[Op, str]]:
        found = [(op, "changes_mask") for op in self.changing if self._is_obeyed(op)]
        named = {op.name for op, _ in found}
        for tensor in self.masked:
            for use in self.graph.uses(tensor):
                op = self.graph.op(use.op)
                if op.type in _LOOK and op.name not in named:
                    named.add(op.name)
                    found.append((op, "masked"))
        return found

    def _data(self, op: Op, call: Call | None) -> Sequence[str]:
        """The tensors whose masks count: those of a layer's first argument, any of an operation's."""
        if call is None or op.name == call.activation:
            return op.inputs[:1]
        slots = call.tensor_slots
        if isinstance(call.layer, self.keras.layers.Layer):
            slots = slots[: len(_tensors(self.keras, _first(call.node)))]
        return [op.inputs[slot] for slot in slots]

    def _explicit(self, call: Call) -> bool:
        return bool(_tensors(self.keras, call.node.arguments.kwargs.get("mask")))

    def _hands_on(self, call: Call, masked: bool) -> bool:
        """May the output of a call carry a mask, given whether its input does?"""
        layer = call.layer
        if not isinstance(layer, self.keras.layers.Layer):
            return False
        if not _is_plain(self.keras, layer):
            return masked or any(_makes_mask(self.keras, inner) for inner in layer._flatten_layers(include_self=False))
        if not layer.supports_masking:
            return False
        if _keeps_mask(self.keras, layer):
            return masked
        first = _first(call.node)
        try:
            marks = self.keras.tree.map_structure(lambda x: _mask_like(self.keras, x) if masked else None, first)
            return bool(_tensors(self.keras, layer.compute_mask(first, marks)))
        except _ERRORS:
            return True

    def _is_obeyed(self, op: Op) -> bool:
        """Would a mask on the output of ``op`` reach a layer that obeys it?"""
        seen: set[str] = set()
        ahead = list(op.outputs)
        while ahead:
            for use in self.graph.uses(ahead.pop()):
                if use.op in seen:
                    continue
                seen.add(use.op)
                reader = self.graph.op(use.op)
                call = self.reading.calls.get(reader.name)
                if call is not None and reader.name != call.activation:
                    if self._obeys(call):
                        return True
                    # An operation with a constant drops masks too, but may be folded away itself.
                    if not self._hands_on(call, True) and not _has_constant(self.graph, reader):
                        continue
                ahead.extend(reader.outputs)
        return False

    def _obeys(self, call: Call) -> bool:
        layer = call.layer
        if not isinstance(layer, self.keras.layers.Layer) or isinstance(layer, self.keras.layers.BatchNormalization):
            return False
        if not _is_plain(self.keras, layer) or type(layer).__name__ in _LOOK:
            return True
        names = [name for name in layer.call_signature_parameters if name == "mask" or name.endswith("_mask")]
        given = call.node.arguments.kwargs
        return any(not _tensors(self.keras, given.get(name)) for name in names)


def _has_constant(graph: ModelGraph, op: Op) -> bool:
    return op.type.startswith("ops.") and any(name in graph.params for name in op.inputs)


def _is_plain(keras: Any, layer: Any) -> bool:
    """One of Keras's own layers, with no layers of others inside: what it does with masks shows from outside."""
    return type(layer).__module__.startswith("keras.") and not isinstance(layer, keras.Model | keras.layers.Wrapper)


def _makes_mask(keras: Any, layer: Any) -> bool:
    return bool(getattr(layer, "mask_zero", False)) or isinstance(layer, keras.layers.Masking)


def _keeps_mask(keras: Any, layer: Any) -> bool:
    """Is the mask of the output that of the input, as for a layer without a compute_mask of its own?"""
    return type(layer).compute_mask is keras.layers.Layer.compute_mask


def _first(node: Any) -> Any:
    """The first argument of a call."""
    arguments = node.arguments
    return arguments.args[0] if arguments.args else next(iter(arguments.kwargs.values()), None)


def _tensors(keras: Any, structure: Any) -> list[Any]:
    return [item for item in keras.tree.flatten(structure) if isinstance(item, keras.KerasTensor)]


def _mask_like(keras: Any, tensor: Any) -> Any:
    """A mask as a tensor may carry it: one entry for each step."""
    return keras.KerasTensor(tensor.shape[: max(1, len(tensor.shape) - 1)], dtype="bool")
