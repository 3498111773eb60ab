"""From a graph and a style to the graph in that style: what has to go is folded, what is new does nothing at first.

A BN that crosses an activation is two changes in one: the old one goes into the layers around it, which is exact
where folding finds room for it, and a new one that does nothing stands in the new place. Where folding finds none
the model computes something else until it is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from bnfold.affine import Affine
from bnfold.folding import FoldStep, Plan, Remaining, fold_graph
from bnfold.folding.plan import Fates
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Role, as_affine, role
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import has_bias_input, keeps_axes, linear_layout
from bnfold.refusal import Refusal
from bnfold.restyling import edit
from bnfold.restyling.change import Change, Kind, LeftAlone, Restyled
from bnfold.restyling.listing import listing
from bnfold.restyling.style import Norm, Style
from bnfold.restyling.units import Call, Existing, Unit, find_opaque, find_units

_FRESH = "its weights are initialised anew"


def restyle_graph(graph: ModelGraph, style: Style, *, fresh: bool = False) -> Restyled:
    """A copy of ``graph``, of Keras layers, in another style; what that changed, and which layers it left alone.

    ``fresh`` folds nothing, as for a model whose weights are to be initialised anew. Raises UsageError for a
    pattern of the style that fits no layer.
    """
    return _Restyler(graph, style, fresh).run()


@dataclass(frozen=True, slots=True)
class _Placing:
    """A BN to be put behind an operator: an old one by its name, or a new one."""

    unit: Unit
    call: Call
    behind: str
    axis: int
    old: str = ""


@dataclass(slots=True)
class _Plan:
    """Which BN go, and which are put where."""

    gone: dict[str, str] = field(default_factory=dict)
    placed: list[_Placing] = field(default_factory=list)


class _Restyler:
    def __init__(self, graph: ModelGraph, style: Style, fresh: bool) -> None:
        self.original = graph
        self.graph = graph.copy()
        self.style = style
        self.fresh = fresh
        self.units = find_units(graph)
        self.roles = {op.name: role(op, graph) for op in graph.ops()}
        self.norms = [op for op in graph.ops() if self.roles[op.name] is Role.BATCHNORM]
        self.settings = edit.Settings(style.momentum, style.epsilon)
        self.changes: list[Change] = []
        #: The BN that were made, by the name that they have in the end.
        self.made: list[str] = []
        #: Layers whose calls are normalised differently, which cannot be where they share one BN.
        self.differing: set[str] = set()
        #: Names of BN that stand in the new place of one that is still in its old one, with that one's.
        self.stand_ins: dict[str, str] = {}

    def run(self) -> Restyled:
        self.style.check([self._name(unit) for unit in self.units] + [op.origin or op.name for op in self.norms])
        plan = self._plan()
        folded = self._fold(plan.gone)
        left = self._left(plan.gone)
        reasons = {name: self._why_not_folded(folded, name, left) for name in plan.gone}
        self._carry_out(plan, reasons)
        self._set_biases(plan, left)
        self._tell_parted()
        exact = self.graph.copy() if left and not self.fresh else None
        for name in left:
            edit.cut(self.graph, self.graph.op(name))
        for name, old in self.stand_ins.items():
            edit.rename(self.graph, name, self.original.op(old))
        return Restyled(
            self.graph,
            tuple(self._unexact(change) for change in self.changes) if self.fresh else tuple(self.changes),
            tuple(self._left_alone()),
            exact,
            tuple(self.made),
            tuple(listing(self.original)),
            tuple(listing(self.graph)),
        )

    # -- what is to be done ----------------------------------------------------------------------

    def _plan(self) -> _Plan:
        plan = _Plan()
        for unit in self.units:
            if self.style.chooses(self._name(unit)):
                self._plan_unit(unit, plan)
        if self.style.norm is Norm.NONE:
            self._plan_rest(plan)
        return plan

    def _plan_unit(self, unit: Unit, plan: _Plan) -> None:
        if self.style.norm is Norm.NONE:
            for call in unit.calls:
                self._remove(plan, (*call.before, *call.after), unit)
            return
        if unit.last:
            for call in unit.calls:
                self._remove(plan, (*call.before, *call.after), unit)
        if unit.reason:
            return
        places = [self._place(call) for call in unit.calls]
        if len({found is None for _, found in places}) > 1:
            self.differing.add(unit.origin)  # with a BN for some of its calls alone they could not share it any more
            return
        olds = self._movable(unit)
        for call, (behind, found), old in zip(unit.calls, places, olds, strict=True):
            if found is None:
                plan.placed.append(_Placing(unit, call, behind, self._axis(call, behind), old))
            self._remove(plan, [norm for norm in (*call.before, *call.after) if norm != found], unit)

    def _place(self, call: Call) -> tuple[str, Existing | None]:
        """The operator behind which a BN belongs, and the one that stands there already."""
        if self.style.norm is Norm.AFTER and not call.direct:
            return call.activation, next((norm for norm in call.after if not norm.dropped), None)
        return call.linear, next((norm for norm in call.before if not norm.dropped), None)

    def _movable(self, unit: Unit) -> list[str]:
        """For each call the BN that can move to another place there: in the same model, and with all its calls."""
        found = [
            next((norm.op for norm in (*call.before, *call.after) if _folder(norm.op) == _folder(call.linear)), "")
            for call in unit.calls
        ]
        origins = {self._op(name).origin for name in found if name}
        together = {op.name for op in self.norms if op.origin in origins} == set(found)
        return found if together else [""] * len(found)

    def _remove(self, plan: _Plan, norms: Iterable[Existing], unit: Unit) -> None:
        plan.gone |= dict.fromkeys((norm.op for norm in norms), self._name(unit))

    def _plan_rest(self, plan: _Plan) -> None:
        """BN that belong to no linear layer go as well; those on the input stay where one is asked for there."""
        owned = {norm.op for unit in self.units for call in unit.calls for norm in (*call.before, *call.after)}
        for op in self.norms:
            free = op.name not in owned and self.style.chooses(op.origin or op.name)
            if free and not (self.style.on_input and self._is_on_input(op)):
                plan.gone[op.name] = ""

    def _is_on_input(self, op: Op) -> bool:
        producer = self.graph.producer(op.input(0))
        while producer is not None and role(producer, self.graph) in (Role.SHAPE, Role.DROPOUT, Role.AFFINE):
            producer = self.graph.producer(producer.input(0))
        return producer is None

    def _axis(self, call: Call, behind: str) -> int:
        """The axis of the channels behind an operator: that of the linear layer unless something merges axes."""
        op, keeps = self._op(behind), True
        while op.name != call.linear:
            keeps = keeps and keeps_axes(self.graph, op, self.roles[op.name])
            producer = self.graph.producer(op.input(0))
            assert producer is not None, f"the way from {call.linear} leads to {behind}"
            op = producer
        layout = linear_layout(self.graph, op)
        rank = self.graph.rank(self._op(behind).outputs[0])
        axis = layout.out_axis if layout is not None and keeps else None
        assert axis is not None or rank is not None, "Keras knows the rank of every tensor"
        return axis if axis is not None else (rank or 2) - 1

    # -- what has to go --------------------------------------------------------------------------

    def _fold(self, gone: Iterable[str]) -> Fates:
        """Fold what goes, as far as there is room for it, and nothing else."""
        going = set(gone)
        if self.fresh:
            for name in going:
                edit.cut(self.graph, self._op(name))
        if self.fresh or not going:
            return Fates(Plan())
        others = {op.name for op in self.graph.ops() if isinstance(as_affine(self.graph, op), Affine)} - going
        self.graph, plan = fold_graph(self.graph, branches=False, keep_overridable=True, skip=others)
        return Fates(plan)

    def _left(self, gone: Iterable[str]) -> list[str]:
        """The BN that folding found no room for, or what it left of them."""
        stay = {op.name for op in self.norms} - set(gone)
        here = [op for op in self.graph.ops() if role(op, self.graph) is Role.BATCHNORM]
        return [op.name for op in here if op.name not in stay]

    def _why_not_folded(self, fates: Fates, name: str, left: list[str]) -> str:
        if self.fresh:
            return _FRESH
        fate = fates.of(name)
        if isinstance(fate, Remaining):
            return "; ".join(dict.fromkeys(map(self._reason, (fate.backward, fate.forward))))
        if name in left:
            refusal = as_affine(self.graph, self._op(name))
            return "only a part of it can be folded" if isinstance(refusal, Affine) else refusal.sentence
        if isinstance(fate, FoldStep) and set(fate.holders) & set(left):
            return "only a part of it can be folded"
        return ""

    def _reason(self, refusal: Refusal) -> str:
        """Why folding refused; what was kept out of it was so by the style, not by the user."""
        if refusal.code != "skipped" or refusal.op not in self.original:
            return refusal.sentence
        op = self.original.op(refusal.op)
        return f"{op.display} ({op.type}) stays where it is, and restyle moves nothing past it"

    # -- what is new -----------------------------------------------------------------------------

    def _carry_out(self, plan: _Plan, reasons: dict[str, str]) -> None:
        moved = {placing.old for placing in plan.placed if placing.old}
        for name, layer in plan.gone.items():
            if name not in moved:
                self._tell_removed(name, layer, reasons[name])
        for placing in plan.placed:
            self._put(placing, reasons)
        if self.style.on_input:
            self._put_on_inputs()

    def _tell_removed(self, name: str, layer: str, reason: str) -> None:
        label = self._label(name)
        how = "is removed" if reason else "is folded"
        self._tell(Change(Kind.REMOVE, layer, f"{label} {how}", label, reason))

    def _put(self, placing: _Placing, reasons: dict[str, str]) -> None:
        behind, linear = self._op(placing.behind), self._op(placing.call.linear)
        if not placing.old:
            norm = self._new(f"{linear.origin or linear.name}_bn", linear)
        else:
            norm = self.original.op(placing.old)
            if placing.old in self.graph:
                norm = replace(norm, name=self.graph.fresh(placing.old))
                self.stand_ins[norm.name] = placing.old
        edit.put_norm(self.graph, behind.outputs[0], placing.axis, self.settings, norm=norm)
        self.made.append(placing.old or norm.name)
        self._tell_placed(placing, norm, reasons.get(placing.old, ""))

    def _new(self, origin: str, like: Op) -> Op:
        """A BN without a place. Whatever it stands behind in the end, it trains and computes as ``like`` does."""
        return Op(
            self.graph.fresh(origin), edit.BATCHNORM, (), (), {"like": like.name},
            domain=like.domain, label=origin, origin=origin,
        )  # fmt: skip

    def _tell_placed(self, placing: _Placing, norm: Op, reason: str) -> None:
        layer = self._name(placing.unit)
        activation = self._op(placing.call.activation) if placing.call.activation else None
        where = f"behind {layer}"
        if activation is not None and placing.behind == placing.call.linear:
            where = f"between {layer} and {self._activation(placing.call, activation)}"
        elif activation is not None:
            where = f"behind {self._activation(placing.call, activation)}"
        if placing.old:
            label = self._label(placing.old)
            self._tell(Change(Kind.MOVE, layer, f"{label} moves {where}", label, reason))
        else:
            self._tell(Change(Kind.ADD, layer, f"{norm.display} is put {where}", norm.display))

    def _tell(self, change: Change) -> None:
        if change not in self.changes:  # a layer that is called twice is told of once
            self.changes.append(change)

    def _activation(self, call: Call, op: Op) -> str:
        word = dialect_of(self.graph).word(op)
        fused = op.origin == self._op(call.linear).origin
        return f"its {word}" if fused else f"{op.display} ({word})"

    def _put_on_inputs(self) -> None:
        for tensor in self.graph.inputs:
            here = [op for op in self.graph.ops() if role(op, self.graph) is Role.BATCHNORM and self._is_on_input(op)]
            if any(self._input_of(op) == tensor.name for op in here):
                continue
            readers = [self.graph.op(use.op) for use in self.graph.consumers(tensor.name)]
            if not readers:
                continue
            axes = {layout.in_axis for op in readers if (layout := linear_layout(self.graph, op)) is not None}
            axis = 1 if axes == {1} else len(tensor.shape or ()) - 1
            if "float" not in str(tensor.dtype) or axis < 1 or not isinstance((tensor.shape or ())[axis], int):
                continue
            norm = self._new(f"{tensor.name}_bn", readers[0])
            edit.put_norm(self.graph, tensor.name, axis, self.settings, norm=norm)
            self.made.append(norm.name)
            sentence = f"{norm.display} is put on the input {tensor.name}"
            self._tell(Change(Kind.ADD, tensor.name, sentence, norm.display))

    def _input_of(self, op: Op) -> str:
        tensor = op.input(0)
        while (producer := self.graph.producer(tensor)) is not None:
            tensor = producer.input(0)
        return tensor

    # -- biases ----------------------------------------------------------------------------------

    def _set_biases(self, plan: _Plan, left: list[str]) -> None:
        if self.style.keep_bias:
            return
        norms = {op.name for op in self.graph.ops() if role(op, self.graph) is Role.BATCHNORM} - set(left)
        touched = {name for name in plan.gone.values() if name}
        for unit in self.units:
            if self.style.chooses(self._name(unit)):
                self._set_bias(unit, norms, self._name(unit) in touched)

    def _set_bias(self, unit: Unit, norms: set[str], touched: bool) -> None:
        linears = [self._op(call.linear) for call in unit.calls]
        behind = [edit.norm_behind(self.graph, linear, norms) for linear in linears]
        pairs = [(linear, norm) for linear, norm in zip(linears, behind, strict=True) if norm is not None]
        name = self._name(unit)
        if len(pairs) == len(linears):
            if all(edit.can_lose_bias(self.graph, linear, norm) for linear, norm in pairs):
                edit.drop_biases(self.graph, pairs)
                means = ", ".join(dict.fromkeys(norm.display for _, norm in pairs))
                sentence = f"the bias of {name} goes into the moving mean of {means}"
                if self.fresh:
                    sentence = f"{name} loses its bias: {means} follows it directly"
                self._tell(Change(Kind.BIAS_GOES, name, sentence))
            return
        if all(has_bias_input(linear) for linear in linears):
            if not any(has_bias_input(self.original.op(linear.name)) for linear in linears):
                sentence = f"{name} gets a bias: what was folded into it needs one"
                self._tell(Change(Kind.BIAS_COMES, name, sentence))
        elif not pairs and (touched or not unit.reason):
            bare = [linear for linear in linears if not has_bias_input(linear)]
            if bare and linear_layout(self.graph, bare[0]) is not None:
                edit.add_bias(self.graph, bare)
                self._tell(Change(Kind.BIAS_COMES, name, f"{name} gets a bias: no BN follows it directly"))

    # -- what is told besides --------------------------------------------------------------------

    def _tell_parted(self) -> None:
        """A layer that was called twice is two where something was folded into one of its calls."""
        for unit in self.units:
            weights = [self.graph.op(call.linear).inputs[1:] for call in unit.calls if call.linear in self.graph]
            kinds: list[tuple[str, ...]] = []
            for each in weights:
                if not any(self._alike(each, other) for other in kinds):
                    kinds.append(each)
            if len(kinds) > 1:
                name = self._name(unit)
                sentence = f"{name} becomes {len(kinds)} layers: something is folded into a part of its calls"
                self._tell(Change(Kind.PARTED, name, sentence))

    def _alike(self, first: tuple[str, ...], second: tuple[str, ...]) -> bool:
        pairs = zip_longest(first, second, fillvalue="")
        return all(a == b or (a and b and self._equal(a, b)) for a, b in pairs)

    def _equal(self, first: str, second: str) -> bool:
        a, b = self.graph.params[first], self.graph.params[second]
        return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a.array(), b.array()))

    def _left_alone(self) -> Iterator[LeftAlone]:
        for unit in self.units:
            if unit.reason:
                yield LeftAlone(self._name(unit), unit.reason)
            elif unit.origin in self.differing:
                yield LeftAlone(self._name(unit), "its calls share it, and a BN follows only some of them")
        for name, reason in find_opaque(self.original).items():
            yield LeftAlone(name, reason)

    # -- words -----------------------------------------------------------------------------------

    def _op(self, name: str) -> Op:
        return self.graph.op(name) if name in self.graph else self.original.op(name)

    def _label(self, norm: str) -> str:
        op = self.original.op(norm)
        return op.origin or op.display

    def _name(self, unit: Unit) -> str:
        return unit.origin

    def _unexact(self, change: Change) -> Change:
        return replace(change, reason=change.reason or _FRESH)


def _folder(name: str) -> str:
    """The path of the nested model that an operator stands in."""
    return name.rpartition("/")[0]
