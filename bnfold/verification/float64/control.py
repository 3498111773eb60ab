"""If, Loop, Scan and SequenceMap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bnfold.verification.float64.registry import Call, NotEvaluatedError, Value, positive_axis

#: A subgraph: its outputs for its inputs.
Runner = Callable[[Sequence[Value]], list[Value]]
#: A loop that goes on for so long is not waited for.
_MANY_ITERATIONS = 100_000


def evaluate(call: Call, bodies: Mapping[str, Runner]) -> tuple[Value, ...]:
    """An operator that has subgraphs. Raises NotEvaluatedError."""
    if call.op_type == "If":
        branch = "then_branch" if bool(np.ravel(call.inputs[0])[0]) else "else_branch"
        return tuple(bodies[branch](()))
    if call.op_type == "Loop":
        return _loop(call, bodies["body"])
    if call.op_type == "Scan":
        return _scan_batch(call, bodies["body"]) if call.version < 9 else _scan(call, bodies["body"])
    if call.op_type == "SequenceMap":
        return _sequence_map(call, bodies["body"])
    raise NotEvaluatedError(f"{call.op_type} is not known here")


def _loop(call: Call, body: Runner) -> tuple[Value, ...]:
    limit = None if call.get(0) is None else int(np.ravel(call.inputs[0])[0])
    going = call.get(1) is None or bool(np.ravel(call.inputs[1])[0])
    state = list(call.inputs[2:])
    count = len(state)
    stacked: list[list[Value]] = [[] for _ in range(len(call.outputs) - count)]
    iteration = 0
    while going and (limit is None or iteration < limit):
        if iteration == _MANY_ITERATIONS:
            raise NotEvaluatedError(f"Loop runs for more than {_MANY_ITERATIONS} iterations")
        going_on, *results = body([np.array(iteration, np.int64), np.array(going), *state])
        going = bool(np.ravel(going_on)[0])
        state = results[:count]
        for items, value in zip(stacked, results[count:], strict=False):
            items.append(value)
        iteration += 1
    return (*state, *(np.stack(items) if items else np.zeros((0,)) for items in stacked))


def _scan(call: Call, body: Runner) -> tuple[Value, ...]:
    count = int(call.attribute("num_scan_inputs"))
    state, scanned = list(call.inputs[: len(call.inputs) - count]), call.inputs[len(call.inputs) - count :]
    axes = call.attribute("scan_input_axes", [0] * count)
    backwards = call.attribute("scan_input_directions", [0] * count)
    slices = []
    for value, axis, back in zip(scanned, axes, backwards, strict=True):
        moved = np.moveaxis(value, positive_axis(axis, value.ndim), 0)
        slices.append(moved[::-1] if back else moved)
    outputs = len(call.outputs) - len(state)
    stacked: list[list[Value]] = [[] for _ in range(outputs)]
    for items in zip(*slices, strict=True):
        results = body([*state, *items])
        state, fresh = results[: len(state)], results[len(state) :]
        for gathered, value in zip(stacked, fresh, strict=False):
            gathered.append(value)
    out_axes = call.attribute("scan_output_axes", [0] * outputs)
    out_back = call.attribute("scan_output_directions", [0] * outputs)
    finished = []
    for gathered, axis, back in zip(stacked, out_axes, out_back, strict=True):
        whole = np.stack(gathered[::-1] if back else gathered) if gathered else np.zeros((0,))
        finished.append(np.moveaxis(whole, 0, positive_axis(axis, whole.ndim)))
    return (*state, *finished)


def _scan_batch(call: Call, body: Runner) -> tuple[Value, ...]:
    """Scan of opset 8: a batch first, and the axis that is scanned second."""
    if call.get(0) is not None:
        raise NotEvaluatedError("Scan of opset 8 with lengths of its own for each sample is not known here")
    inputs = call.inputs[1:]
    count = int(call.attribute("num_scan_inputs"))
    directions = call.attribute("directions", [0] * count)
    attributes = {"num_scan_inputs": count, "scan_input_directions": directions}
    samples = [
        _scan(Call("Scan", "", 9, [value[index] for value in inputs], call.outputs, attributes), body)
        for index in range(len(inputs[-1]))
    ]
    return tuple(np.stack(items) for items in zip(*samples, strict=True))


def _sequence_map(call: Call, body: Runner) -> tuple[Value, ...]:
    first, *others = call.inputs
    results = []
    for index, item in enumerate(first):
        results.append(body([item, *(other[index] if isinstance(other, list) else other for other in others)]))
    return tuple([result[slot] for result in results] for slot in range(len(call.outputs)))
