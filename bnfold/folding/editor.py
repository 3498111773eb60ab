"""Carry out what a search described, on the graph that folding owns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.moves import Move
from bnfold.graph import CAPTURE, Derived, ModelGraph, Op, Param, Tensor, Use, is_float
from bnfold.operators import Node, Rewrite, dim_of, facts_of, rank_of
from bnfold.operators.base import NewOp
from bnfold.operators.forms import DATA, cheapest_form, identity_form
from bnfold.refusal import Refusal


class Editor:
    """Changes one graph, keeping names, levels and unused constants in order."""

    def __init__(self, graph: ModelGraph, levels: dict[str, float]) -> None:
        self.graph = graph
        self.levels = levels
        #: Operators changed, added or removed since the last look.
        self.dirty: set[str] = set()
        #: Constants that may have lost their last reader.
        self.loose: set[str] = set()
        #: Constants made from one base by the same steps: shared weights stay shared.
        self._copies: dict[tuple[object, ...], Param] = {}
        self._shared: set[str] = set()

    # -- the two ways in -------------------------------------------------------------------------

    def carry_out(self, moves: Iterable[Move], rename: Mapping[str, str]) -> None:
        """Apply the rewrites of ``moves``; tensors in ``rename`` get their new names everywhere."""
        moves = list(moves)
        rewrites = {name: rewrite for move in moves for name, rewrite in move.rewrites.items()}
        constants = {use: param for move in moves for use, param in move.constants.items()}
        names = set(rewrites) | {use.op for use in constants}
        for tensor in rename:
            producer = self.graph.producer(tensor)
            names.update([producer.name] if producer is not None else [])
            names.update(use.op for use in self.graph.consumers(tensor) if use.slot != CAPTURE)
        ops = {name: self.graph.op(name) for name in sorted(names, key=lambda n: (self.levels[n], n))}
        for op in ops.values():
            self._pin(op)
        described = {old: _merged(self.graph.tensor(old), self.graph.tensor(new)) for old, new in rename.items()}
        for name in ops:
            self._detach(name)
        for tensor, known in described.items():
            self.graph.forget(tensor)
            self.graph.declare(replace(known, name=rename[tensor]))
        for name, op in ops.items():
            self._rewrite(op, rewrites.get(name), constants, rename)

    def drop(self, names: Iterable[str]) -> None:
        """Remove operators; constants that only they read become loose."""
        for name in names:
            op = self.graph.op(name)
            self._pin(op)
            self.loose.update(tensor for tensor in op.inputs if tensor)
            self.dirty.add(name)
            for tensor in op.inputs:
                if self.graph.producer(tensor) is not None:
                    self.dirty.update(use.op for use in self.graph.uses(tensor))
            self.graph.remove(name)

    def redirect(self, tensor: str, to: str) -> None:
        """Make every reader of ``tensor`` read ``to``."""
        for use in self.graph.consumers(tensor):
            self.graph.rewire(use, to)
            self.dirty.add(use.op)
        producer = self.graph.producer(to)
        if producer is not None:
            self.dirty.add(producer.name)

    # -- within ----------------------------------------------------------------------------------

    def _pin(self, op: Op) -> None:
        """Write down shapes that only the producers tell, before these are taken apart."""
        for tensor in filter(None, (*op.inputs, *op.outputs)):
            known = self.graph.tensor(tensor)
            if known.shape is not None and None not in known.shape:
                continue
            rank = rank_of(self.graph, tensor)
            if rank is not None:
                sizes = known.shape or (None,) * rank
                shape = (dim_of(self.graph, tensor, axis) if size is None else size for axis, size in enumerate(sizes))
                self.graph.declare(replace(known, name=tensor, shape=tuple(shape)))

    def _detach(self, name: str) -> None:
        """Let go of an operator's outputs, so that names can be exchanged, but keep its place."""
        op = self.graph.op(name)
        self.graph.put(replace(op, outputs=()))

    def _rewrite(
        self, op: Op, rewrite: Rewrite | None, constants: Mapping[Use, Param], rename: Mapping[str, str]
    ) -> None:
        inputs = [rename.get(tensor, tensor) for tensor in op.inputs]
        outputs = tuple(rename.get(tensor, tensor) for tensor in op.outputs)
        for slot in range(len(inputs)):
            param = constants.get(Use(op.name, slot))
            if param is not None:
                inputs[slot] = self.constant(param, replaces=Use(op.name, slot))
        self.dirty.add(op.name)
        if rewrite is None:
            self.graph.put(replace(op, inputs=tuple(inputs), outputs=outputs, record=None))
            return
        if rewrite.becomes is not None:
            self._become(op, rewrite.becomes, rename, outputs)
            return
        for slot, new in sorted(rewrite.inputs.items()):
            inputs.extend([""] * (slot + 1 - len(inputs)))
            inputs[slot] = self._operand(op, slot, new)
        if rewrite.residual is not None:
            inner = self.graph.fresh(f"{outputs[0]}_linear")
            self.graph.declare(replace(self.graph.tensor(outputs[0]), name=inner))
            changed = self._changed(op, rewrite, inputs, (inner, *outputs[1:]))
            self.graph.put(changed)
            self._append(op.name, inner, rewrite.residual, outputs[0])
            return
        self.graph.put(self._changed(op, rewrite, inputs, outputs))

    @staticmethod
    def _changed(op: Op, rewrite: Rewrite, inputs: list[str], outputs: tuple[str, ...]) -> Op:
        attributes = {**dict(op.attributes), **rewrite.attributes} if rewrite.attributes else op.attributes
        return replace(
            op, type=rewrite.type or op.type, inputs=tuple(inputs), outputs=outputs, attributes=attributes, record=None
        )

    def _operand(self, op: Op, slot: int, new: Param | NewOp | str) -> str:
        if isinstance(new, str):
            return new
        if isinstance(new, Param):
            return self.constant(new, replaces=Use(op.name, slot))
        # A constant behind an operator of its own (DequantizeLinear): made anew for this reader.
        old = op.input(slot)
        producer = self.graph.producer(old)
        output = self.graph.fresh(old)
        self.graph.declare(replace(self.graph.tensor(old), name=output))
        key = self.graph.fresh(f"{op.name}_{new.type}")
        inputs = tuple(self.constant(part) if isinstance(part, Param) else part for part in new.inputs)
        beside = producer.name if producer is not None else op.name
        made = Op(key, new.type, inputs, (output,), new.attributes, new.domain, label=key)
        self.graph.put(made, after=beside)
        self.levels[key] = self.levels[beside]
        self.loose.add(old)
        return output

    def _become(self, op: Op, affine: Affine, rename: Mapping[str, str], outputs: tuple[str, ...]) -> None:
        """An affine operator turns into the cheapest form of another affine."""
        data = op.input(facts_of(op).data_slot(Node(self.graph, op)))
        self.replace_affine(op, rename.get(data, data), affine, outputs[0], parameters_of=data)

    def replace_affine(self, op: Op, data: str, affine: Affine, output: str, *, parameters_of: str = "") -> str:
        """Put the cheapest form of ``affine`` between two tensors, the first in place of ``op``; the last's name."""
        self.loose.update(tensor for tensor in op.inputs if tensor and tensor not in (data, parameters_of))
        form = self._form(data, affine, op)
        form = form or [identity_form(self.graph.format)]
        keep = replace(op, outputs=(), inputs=())
        self.graph.put(keep)
        return self._chain(form, data, output, first=op)

    def _append(self, after: str, data: str, affine: Affine, output: str) -> None:
        op = self.graph.op(after)
        self._chain(self._form(data, affine, op), data, output, after=after)

    def _form(self, data: str, affine: Affine, op: Op) -> list[NewOp]:
        form = cheapest_form(self.graph, data, affine, self.dtype_of(op))
        assert not isinstance(form, Refusal), "the search asked for the form before"
        return form

    def _chain(self, form: list[NewOp], data: str, output: str, *, first: Op | None = None, after: str = "") -> str:
        for index, new in enumerate(form):
            last = index == len(form) - 1
            target = output if last else self.graph.fresh(f"{output}_scaled")
            if not last:
                self.graph.declare(replace(self.graph.tensor(output), name=target))
            inputs = tuple(
                self.constant(part) if isinstance(part, Param) else (data if part == DATA else part)
                for part in new.inputs
            )
            if first is not None and index == 0:
                made = Op(
                    first.name, new.type, inputs, (target,), new.attributes, new.domain, first.label, first.origin
                )
                self.graph.put(made)
            else:
                key = self.graph.fresh(f"{after}_{new.type.lower()}")
                made = Op(key, new.type, inputs, (target,), new.attributes, new.domain, label=key)
                self.graph.put(made, after=after)
                self.levels[key] = self._level_between(after, output)
            self.dirty.add(made.name)
            data, after = target, made.name
        return after

    def _level_between(self, before: str, output: str) -> float:
        low = self.levels[before]
        high = min((self.levels[use.op] for use in self.graph.consumers(output)), default=low + 1)
        return (low + max(high, low)) / 2

    def dtype_of(self, op: Op) -> np.dtype[Any]:
        """The floating-point type that an operator computes in."""
        for tensor in (*op.outputs, *op.inputs):
            dtype = self.graph.tensor(tensor).dtype if tensor else None
            if dtype is not None and is_float(dtype):
                return dtype
        for tensor in op.inputs:
            param = self.graph.constant(tensor)
            if param is not None and param.is_float:
                return param.dtype
        return np.dtype(np.float32)

    def constant(self, param: Param, *, replaces: Use | None = None) -> str:
        """Register a new constant and return its name: the one it replaces if nobody else reads that."""
        key = _identity(param)
        copy = self._copies.get(key) if key is not None else None
        if copy is not None and self.graph.params.get(copy.name) is copy:
            return copy.name
        name = param.name
        old = self.graph.op(replaces.op).input(replaces.slot) if replaces is not None else ""
        graph = self.graph
        own = old in graph.params and graph.use_count(old) == 1 and not graph.is_output(old)
        if own and old not in self._shared and old not in graph.overridable:
            name = old
        else:
            name = self.graph.fresh(name)
            self.loose.update([old] if old else [])
        self.graph.params[name] = made = replace(param, name=name, record=None)
        if key is not None:
            self._copies[key] = made
            self._shared.add(name)
        return name

    def sweep(self) -> int:
        """Remove operators whose outputs nobody reads, from the last to the first; how many there were.

        They compute nothing, but would count as readers of what they read.
        """
        graph, before = self.graph, len(self.graph)
        for op in reversed(graph.ops()):
            if not any(tensor and (graph.use_count(tensor) or graph.is_output(tensor)) for tensor in op.outputs):
                self.loose.update(tensor for tensor in (*op.inputs, *op.captures) if tensor)
                graph.remove(op.name)
        return before - len(graph)

    def prune(self) -> None:
        """Remove loose constants that nobody reads, with the operators that computed them."""
        queue = list(self.loose)
        self.loose.clear()
        while queue:
            tensor = queue.pop()
            if self.graph.use_count(tensor) or self.graph.is_output(tensor):
                continue
            if tensor in self.graph.params:
                del self.graph.params[tensor]
                self.graph.overridable.discard(tensor)
                continue
            op = self.graph.producer(tensor)
            if op is None or any(self.graph.use_count(t) or self.graph.is_output(t) for t in op.outputs if t):
                continue
            queue.extend(t for t in op.inputs if t)
            self.graph.remove(op.name)


def _merged(first: Tensor, second: Tensor) -> Tensor:
    """What either knows of one tensor."""
    if first.shape is None or second.shape is None:
        return replace(first, shape=first.shape or second.shape)
    pairs = zip(first.shape, second.shape, strict=True)
    return replace(first, shape=tuple(b if a is None or isinstance(b, int) else a for a, b in pairs))


def _identity(param: Param) -> tuple[object, ...] | None:
    """Two derived constants with the same key hold the same values."""
    source = param.data
    if not isinstance(source, Derived):
        return None
    return (source.base, *((is_factor, values.shape, values.tobytes()) for is_factor, values in source.steps))


def renamed(graph: ModelGraph, changed: Iterable[str], keep: Mapping[str, str]) -> dict[str, str]:
    """New names for tensors whose values change: given ones, or ones that say they are folded."""
    return {tensor: keep.get(tensor) or graph.fresh(f"{tensor}_folded") for tensor in changed}
