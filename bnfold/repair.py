"""What ``fix`` changes in a graph: nothing that training or inference would notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bnfold.analysis.context import Context, contexts_of
from bnfold.analysis.phrases import plural, title
from bnfold.analysis.rules.redundancy import identity_sites, redundant_biases
from bnfold.analysis.sites import MEAN_SLOT, Bias, Site
from bnfold.folding import FoldKind, Plan, fold_graph
from bnfold.graph import ModelGraph, Op, Param, Use
from bnfold.operators.patterns import bias_gain, can_drop_bias


@dataclass(frozen=True, slots=True)
class Change:
    """One repair: the code of the rule it satisfies, the layer it concerns, and what was done."""

    code: str
    layer: str
    sentence: str

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "layer": self.layer, "sentence": self.sentence}


def repair_graph(graph: ModelGraph) -> tuple[ModelGraph, tuple[Change, ...]]:
    """A copy of ``graph`` with BN201, BN204 and BN403 repaired, and what was done."""
    copy = graph.copy()
    changes = [*_freeze(copy)]
    copy, removed = _drop_identities(copy)
    changes += removed
    for context in contexts_of(copy, Plan()):
        changes += _drop_biases(context)
    return copy, tuple(changes)


def _freeze(graph: ModelGraph) -> Iterator[Change]:
    count = len(graph.overridable)
    if count:
        graph.overridable.clear()
        yield Change("BN403", "", f"{plural(count, 'weight')} taken off the model's inputs")


def _drop_biases(context: Context) -> Iterator[Change]:
    """BN201: the mean takes the bias over, ``(Wx + b) - mean = Wx - (mean - b)``."""
    for group in list(redundant_biases(context)):
        op, bias, site = group[0]
        if not can_drop_bias(context.graph, op):
            continue
        readers = {Use(behind.op.name, MEAN_SLOT) for _, _, behind in group}
        means = dict.fromkeys(behind.op.input(MEAN_SLOT) for _, _, behind in group)
        shifted = {
            mean: _shift_mean(context.graph, mean, readers, bias, bias_gain(context.graph, op)) for mean in means
        }
        for linear, own, behind in group:
            _drop_bias(context.graph, linear, own, behind)
            context.graph.rewire(Use(behind.op.name, MEAN_SLOT), shifted[behind.op.input(MEAN_SLOT)])
        _forget_unused(context.graph, {bias.param.name, *means})
        size = plural(bias.param.size, "parameter")
        yield Change("BN201", op.display, f"the bias of {title(op)} ({size}) went into the moving mean of {site.title}")


def _shift_mean(graph: ModelGraph, name: str, readers: set[Use], bias: Bias, gain: float) -> str:
    """Take the bias into the mean of that name, or into a copy where others than ``readers`` read it."""
    mean = graph.constant(name)
    assert mean is not None
    values = mean.exact() - gain * bias.param.exact().reshape(-1)
    private = name in graph.params and set(graph.consumers(name)) <= readers and not graph.is_output(name)
    new = name if private else graph.fresh(f"{name}_without_bias")
    graph.params[new] = Param.of(new, values, mean.dtype)
    return new


def _drop_bias(graph: ModelGraph, linear: Op, bias: Bias, behind: Site) -> None:
    if bias.owner.name != linear.name:
        graph.rewire(Use(behind.op.name, 0), linear.outputs[0])
        graph.remove(bias.owner.name)
        return
    inputs = ["" if name == bias.param.name else name for name in linear.inputs]
    attributes = dict(linear.attributes)
    without = {"use_bias": False, "bias_axes": None}
    if attributes.keys() & without.keys():
        attributes |= {name: value for name, value in without.items() if name in attributes}
        graph.put(replace(linear, inputs=tuple(inputs), attributes=attributes, record=None))
        return
    while not inputs[-1]:
        inputs.pop()
    # The tensor between the two has other values now, so it must not keep its name.
    output = linear.outputs[0]
    renamed = graph.fresh(f"{output}_without_bias")
    graph.declare(replace(graph.tensor(output), name=renamed))
    graph.forget(output)
    graph.put(replace(linear, inputs=tuple(inputs), outputs=(renamed,), record=None))
    graph.rewire(Use(behind.op.name, 0), renamed)


def _forget_unused(graph: ModelGraph, names: set[str]) -> None:
    for name in names:
        if name in graph.params and not graph.is_used(name):
            del graph.params[name]


def _drop_identities(graph: ModelGraph) -> tuple[ModelGraph, list[Change]]:
    """BN204: a fold in which nothing else may move."""
    contexts = contexts_of(graph, Plan())
    useless = {context.key(site.op): site for context in contexts for site in identity_sites(context)}
    if not useless:
        return graph, []
    others = {context.key(op) for context in contexts for op in context.graph.ops()} - set(useless)
    fixed, plan = fold_graph(graph, branches=False, keep_overridable=True, skip=others)
    gone = [useless[step.subject] for step in plan.steps if step.kind is FoldKind.IDENTITY and step.subject in useless]
    return fixed, [
        Change("BN204", site.label, f"{site.title} was removed: it did nothing to its {site.channels} channels")
        for site in gone
    ]
