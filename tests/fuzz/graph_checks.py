"""What has to hold for every fold of every graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
from graph_choices import Choices, Replayed, chance
from helpers import Folded, Net, assert_close, fold_unrun, op_counts, random_feeds, run
from onnx import ModelProto

from bnfold.folding import fold_graph
from bnfold.formats import load
from bnfold.graph import walk
from bnfold.verification.float64 import Evaluator

Builder = Callable[[Net, Choices], ModelProto]


def check(build: Builder, choices: Choices, *, shuffles: int = 1) -> Folded:
    """Fold the graph that ``build`` makes of the decisions, and raise AssertionError if anything is wrong with it.

    Outputs are compared in onnxruntime in float32. Where they differ by more than rounding usually
    does, numbers may have cancelled: the same graph in float64, where nothing hides, decides.
    """
    model = build(Net(seed=1), choices)
    options = {"keep_overridable": chance(choices, 50), "branches": chance(choices, 80)}
    folded = fold_unrun(model, **options)
    feeds = random_feeds(model, size=3)
    try:
        assert_close(run(model, feeds), run(folded.after, feeds))
    except AssertionError:
        check_in_float64(build, Replayed(choices.record))
    for seed in range(shuffles):
        check_order(folded, np.random.default_rng(seed), **options)
    return folded


def check_in_float64(build: Builder, choices: Choices) -> None:
    """The graph in double precision, evaluated without onnxruntime, by tables that folding has no part in."""
    model = build(Net(seed=1, dtype=np.float64), choices)
    folded = fold_unrun(model)
    feeds = random_feeds(model, size=3)
    with np.errstate(all="ignore"):
        expected, actual = (list(Evaluator(proto).run(feeds).values()) for proto in (model, folded.after))
    assert_close(expected, actual, slack=100)


def check_order(folded: Folded, rng: np.random.Generator, **options: bool) -> None:
    """Another topological order of the nodes folds to as many operators of each type."""
    graph, _ = fold_graph(load(in_another_order(folded.before, rng)).graph, **options)
    expected, actual = op_counts(folded.after), Counter(op.type for part in walk(graph) for op in part.ops())
    assert expected == actual, f"{dict(expected - actual)} became {dict(actual - expected)} in another order"


def in_another_order(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """The same model with its nodes in a random topological order."""
    shuffled = ModelProto()
    shuffled.CopyFrom(model)
    waiting = list(model.graph.node)
    produced = {name for node in waiting for name in node.output}
    done: set[str] = set()
    order: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node in waiting if not (reads(node) & produced) - done]
        node = ready[rng.integers(len(ready))]
        waiting.remove(node)
        done.update(node.output)
        order.append(node)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(order)
    return shuffled


def reads(node: onnx.NodeProto) -> set[str]:
    """The tensors a node reads, in its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= reads(inner)
        names.update(value.name for value in attribute.g.output)
    return names
