"""Sequences and optionals: Python lists, and a value or None."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.verification.float64.registry import Call, operator


@operator("SequenceConstruct")
def _construct(call: Call) -> Any:
    return list(call.inputs)


@operator("SequenceEmpty")
def _empty(_: Call) -> Any:
    return []


@operator("SequenceLength")
def _length(call: Call) -> Any:
    return np.array(len(call.inputs[0]), np.int64)


@operator("SequenceAt")
def _at(call: Call) -> Any:
    return call.inputs[0][int(np.ravel(call.inputs[1])[0])]


@operator("SequenceInsert")
def _insert(call: Call) -> Any:
    items = list(call.inputs[0])
    place = len(items) if call.get(2) is None else int(np.ravel(call.inputs[2])[0])
    items.insert(place, call.inputs[1])
    return items


@operator("SequenceErase")
def _erase(call: Call) -> Any:
    items = list(call.inputs[0])
    del items[-1 if call.get(1) is None else int(np.ravel(call.inputs[1])[0])]
    return items


@operator("ConcatFromSequence")
def _concat(call: Call) -> Any:
    join = np.stack if call.attribute("new_axis", 0) else np.concatenate
    return join(call.inputs[0], axis=call.attributes["axis"])


@operator("SplitToSequence")
def _split(call: Call) -> Any:
    x, axis = call.inputs[0], call.attribute("axis", 0)
    size = x.shape[axis]
    given = call.get(1)
    if given is None:
        parts = np.split(x, size, axis)
        return parts if call.attribute("keepdims", 1) else [np.squeeze(part, axis) for part in parts]
    if np.ndim(given) == 0:
        return np.split(x, range(int(given), size, int(given)), axis)
    return np.split(x, np.cumsum(given)[:-1], axis)


@operator("OptionalHasElement")
def _has_element(call: Call) -> Any:
    return np.array(call.get(0) is not None)


@operator("OptionalGetElement")
def _get_element(call: Call) -> Any:
    return call.inputs[0]


@operator("Optional")
def _optional(call: Call) -> Any:
    return call.get(0)
