"""Changes of the graph that folding owns: what a search described is carried out here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.moves import Move
from bnfold.graph import Derived, ModelGraph, Op, Order, Param, Tensor, Use, is_float
from bnfold.operators import Node, Rewrite, dim_of, facts_of, rank_of, value_readers
from bnfold.operators.answers import NewAffine, NewOp, NewWeights, Placeholder
from bnfold.operators.dialect import cheapest_form, dialect_of
from bnfold.refusal import Refusal


class Editor:
    """Changes one graph, keeping names, the dataflow order and unused constants right."""

    def __init__(self, graph: ModelGraph, order: Order) -> None:
        self.graph = graph
        self.order = order
        #: Operators changed, added or removed since :meth:`take_changed`.
        self.changed: set[str] = set()
        #: Has a tensor got a name of which a size is known that was not? Then more follows from that.
        self.learned = False
        #: Constants that may have lost their last reader.
        self.loose: set[str] = set()
        #: Constants made from one base by the same steps: shared weights stay shared.
        self._copies: dict[tuple[object, ...], Param] = {}
        self._shared: set[str] = set()

    def take_changed(self) -> set[str]:
        """The operators changed, added or removed since the last call."""
        changed, self.changed = self.changed, set()
        return changed

    # -- changes ---------------------------------------------------------------------------------

    def carry_out(self, move: Move, rename: Mapping[str, str]) -> None:
        """Apply the rewrites of a move; tensors in ``rename`` get their new names everywhere."""
        names = {*move.rewrites, *(use.op for use in move.constants)}
        for tensor in rename:
            producer = self.graph.producer(tensor)
            names.update([producer.name] if producer is not None else [])
            names.update(use.op for use in self.graph.consumers(tensor) if use.slot is not None)
        ops = {name: self.graph.op(name) for name in (self.order.sorted(names) if len(names) > 1 else names)}
        for op in ops.values():
            self._pin(op)
        described = {old: _merged(self.graph.tensor(old), self.graph.tensor(new)) for old, new in rename.items()}
        self.learned |= any(known.shape != self.graph.tensor(old).shape for old, known in described.items())
        for name in ops:
            self._detach(name)
        for tensor, known in described.items():
            self.graph.forget(tensor)
            self.graph.declare(Tensor(rename[tensor], known.dtype, known.shape))
        for name, op in ops.items():
            self._rewrite(op, move.rewrites.get(name), move.constants, rename)

    def drop(self, names: Iterable[str]) -> None:
        """Remove operators; constants that only they read become loose."""
        for name in names:
            op = self.graph.op(name)
            self._pin(op)
            self.loose.update(tensor for tensor in op.inputs if tensor)
            self._remove(op)

    def _remove(self, op: Op) -> None:
        """Take an operator out: it is no reader any more, which may be what the other readers have waited for."""
        self.changed.add(op.name)
        for tensor in op.inputs:
            if self.graph.producer(tensor) is not None:
                self.changed.update([use.op for use in self.graph.uses(tensor)])
        self.graph.remove(op.name)

    def redirect(self, tensor: str, to: str) -> None:
        """Make every reader of ``tensor`` read ``to``."""
        for use in self.graph.consumers(tensor):
            self.graph.rewire(use, to)
            self.changed.add(use.op)
        producer = self.graph.producer(to)
        if producer is not None:
            self.changed.add(producer.name)

    def touch(self, tensor: str) -> None:
        """Make its readers new operators: more is known of the tensor than when they were asked."""
        for use in self.graph.consumers(tensor):
            if use.slot is not None:
                self.graph.rewire(use, tensor)
            self.changed.add(use.op)

    # -- within ----------------------------------------------------------------------------------

    def _pin(self, op: Op) -> None:
        """Write down shapes that only the producers tell, before these are taken apart."""
        told, params = self.graph.known_tensors(), self.graph.params
        for tensor in (*op.inputs, *op.outputs):
            known = told.get(tensor)
            if (known is not None and known.shape is not None and None not in known.shape) or tensor in params:
                continue
            if not tensor:
                continue
            known = self.graph.tensor(tensor)
            rank = rank_of(self.graph, tensor)
            if rank is not None:
                sizes = known.shape or (None,) * rank
                shape = (dim_of(self.graph, tensor, axis) if size is None else size for axis, size in enumerate(sizes))
                self.graph.declare(replace(known, name=tensor, shape=tuple(shape)))

    def _detach(self, name: str) -> None:
        """Let go of an operator's outputs, so that names can be exchanged, but keep its place."""
        self.graph.release(name)

    def _rewrite(
        self, op: Op, rewrite: Rewrite | None, constants: Mapping[Use, Param], rename: Mapping[str, str]
    ) -> None:
        inputs: list[str] = [rename.get(tensor, tensor) for tensor in op.inputs]
        outputs = tuple([rename.get(tensor, tensor) for tensor in op.outputs])
        for slot in range(len(inputs)) if constants else ():
            param = constants.get(Use(op.name, slot))
            if param is not None:
                inputs[slot] = self.constant(param, replaces=op.input(slot))
        self.changed.add(op.name)
        if rewrite is None:
            self.graph.put(op.between(tuple(inputs), outputs))
            return
        if isinstance(rewrite, NewAffine):
            # The parameters of what it was are loose, its data are not.
            data = op.input(facts_of(op).data_slot(Node(self.graph, op)))
            self.replace_affine(op, rename.get(data, data), rewrite.affine, outputs[0], old_data=data)
        elif isinstance(rewrite, NewWeights):
            self._reweight(op, rewrite, inputs, outputs)
        else:
            inner = self._declared_like(outputs[0], f"{outputs[0]}_linear")
            self._reweight(op, rewrite.weights, inputs, (inner, *outputs[1:]))
            self._append(op.name, inner, rewrite.residual, outputs[0])

    def _reweight(self, op: Op, weights: NewWeights, inputs: list[str], outputs: tuple[str, ...]) -> None:
        for slot, new in sorted(weights.inputs.items()):
            inputs.extend([""] * (slot + 1 - len(inputs)))
            inputs[slot] = self._operand(op, slot, new)
        attributes = {**op.attributes, **weights.attributes} if weights.attributes else op.attributes
        kind = op.type if weights.type is None else weights.type
        changed = Op(
            op.name,
            kind,
            tuple(inputs),
            outputs,
            attributes,
            domain=op.domain,
            label=op.label,
            origin=op.origin,
            subgraphs=op.subgraphs,
            captures=op.captures,
        )
        self.graph.put(changed)

    def _declared_like(self, tensor: str, stem: str) -> str:
        """A new tensor of which the same is known."""
        name = self.graph.fresh(stem)
        self.graph.declare(replace(self.graph.tensor(tensor), name=name))
        return name

    def _operand(self, op: Op, slot: int, new: Param | NewOp | str) -> str:
        if isinstance(new, str):
            return new
        if isinstance(new, Param):
            return self.constant(new, replaces=op.input(slot))
        # A constant behind an operator of its own (DequantizeLinear): made anew for this reader.
        old = op.input(slot)
        producer = self.graph.producer(old)
        output = self._declared_like(old, old)
        key = self.graph.fresh(f"{op.name}_{new.type}")
        beside = producer.name if producer is not None else op.name
        made = Op(key, new.type, self.inputs(new, old), (output,), new.attributes, domain=new.domain, label=key)
        self.graph.put(made, after=beside)
        self.order.put(key, self.order[beside])
        self.loose.add(old)
        return output

    def inputs(self, new: NewOp, data: str) -> tuple[str, ...]:
        """The names of what a new operator reads; its constants are registered."""
        return tuple(
            self.constant(part) if isinstance(part, Param) else data if isinstance(part, Placeholder) else part
            for part in new.inputs
        )

    def replace_affine(self, op: Op, data: str, affine: Affine, output: str, *, old_data: str | None = None) -> str:
        """Put the cheapest form of ``affine`` between two tensors, the first in place of ``op``; the last's name.

        ``old_data`` is the tensor that ``op`` read, where that is another one than ``data``.
        """
        self.loose.update(tensor for tensor in op.inputs if tensor and tensor not in (data, old_data))
        first, *rest = self._form(data, affine, op) or [dialect_of(self.graph).identity()]
        # Its output is free for whoever comes last.
        self.graph.release(op.name)
        target = self._declared_like(output, f"{output}_scaled") if rest else output
        inputs = self.inputs(first, data)
        made = Op(
            op.name,
            first.type,
            inputs,
            (target,),
            first.attributes,
            domain=first.domain,
            label=op.label,
            origin=op.origin,
        )
        self.graph.put(made)
        self.changed.add(op.name)
        return self._put_behind(op.name, rest, target, output)

    def _append(self, after: str, data: str, affine: Affine, output: str) -> None:
        self._put_behind(after, self._form(data, affine, self.graph.op(after)), data, output)

    def _form(self, data: str, affine: Affine, op: Op) -> list[NewOp]:
        form = cheapest_form(self.graph, data, affine, self.dtype_of(op))
        assert not isinstance(form, Refusal), "the search asked for the form before"
        return form

    def _put_behind(self, after: str, form: list[NewOp], data: str, output: str) -> str:
        """Put new operators in a row between two tensors, behind the operator ``after``; the last's name."""
        for index, new in enumerate(form, start=1):
            target = output if index == len(form) else self._declared_like(output, f"{output}_scaled")
            inputs = self.inputs(new, data)
            key = self.graph.fresh(f"{after}_{new.type.lower()}")
            self.graph.put(
                Op(key, new.type, inputs, (target,), new.attributes, domain=new.domain, label=key), after=after
            )
            self.order.insert_between(key, after, (use.op for use in self.graph.uses(output)))
            self.changed.add(key)
            data, after = target, key
        return after

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

    def constant(self, param: Param, *, replaces: str = "") -> str:
        """Register a new constant and return its name: that of the one it ``replaces`` if nobody else reads that."""
        key = _identity(param)
        copy = self._copies.get(key) if key is not None else None
        if copy is not None and self.graph.params.get(copy.name) is copy:
            return copy.name
        graph = self.graph
        own = replaces in graph.params and graph.use_count(replaces) == 1 and not graph.is_output(replaces)
        if own and replaces not in self._shared and replaces not in graph.overridable:
            name = replaces
        else:
            name = graph.fresh(param.name)
            self.loose.update([replaces] if replaces else [])
        self.graph.params[name] = made = Param(name, param.dtype, param.shape, param.data)
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
            if not any(map(graph.is_used, op.outputs)):
                self.loose.update(tensor for tensor in (*op.inputs, *op.captures) if tensor)
                graph.remove(op.name)
        return before - len(graph)

    def prune(self) -> None:
        """Remove loose constants that nobody reads, with the operators that computed them."""
        queue = list(self.loose)
        self.loose.clear()
        while queue:
            tensor = queue.pop()
            if self.graph.is_used(tensor):
                queue.extend(self._write_shapes(tensor))
                if self.graph.is_used(tensor):
                    continue
            if tensor in self.graph.params:
                del self.graph.params[tensor]
                self.graph.overridable.discard(tensor)
                continue
            op = self.graph.producer(tensor)
            if op is None or any(map(self.graph.is_used, op.outputs)):
                continue
            queue.extend(t for t in op.inputs if t)
            self._remove(op)

    def _write_shapes(self, tensor: str) -> list[str]:
        """Where only the shape of a constant is still asked for, make the answers constants; what their operators read.

        A weight that was changed would otherwise stay beside the new one for the operators that shape it.
        """
        graph = self.graph
        if graph.constant(tensor) is None or graph.is_output(tensor) or any(True for _ in value_readers(graph, tensor)):
            return []
        read: list[str] = []
        for use in graph.consumers(tensor):
            op = graph.op(use.op)
            output = op.outputs[0]
            answer = graph.constant(output)
            if answer is not None and not graph.is_output(output) and graph.captured(output) is None:
                self._remove(op)
                graph.params[output] = answer
                read += [name for name in op.inputs if name and name != tensor]
        return read


def _merged(first: Tensor, second: Tensor) -> Tensor:
    """What either knows of one tensor."""
    if first.shape == second.shape:
        return first
    if first.shape is None or second.shape is None:
        return Tensor(first.name, first.dtype, first.shape or second.shape)
    pairs = zip(first.shape, second.shape, strict=True)
    shape = tuple([b if a is None or isinstance(b, int) else a for a, b in pairs])
    return Tensor(first.name, first.dtype, shape)


def _identity(param: Param) -> tuple[object, ...] | None:
    """Two derived constants with the same key hold the same values."""
    source = param.data
    if not isinstance(source, Derived):
        return None
    return (source.base, *[(is_factor, values.shape, values.tobytes()) for is_factor, values in source.steps])


_FOLDED = re.compile(r"_folded(_\d+)?$")


def renamed(graph: ModelGraph, changed: Iterable[str], keep: Mapping[str, str]) -> dict[str, str]:
    """New names for tensors whose values change: given ones, or ones that say they are folded, however often."""
    return {tensor: keep.get(tensor) or graph.fresh(f"{_FOLDED.sub('', tensor)}_folded") for tensor in changed}
