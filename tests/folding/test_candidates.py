"""Fold candidates: how far a run of affines reaches, whichever of them is asked."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, fold_unrun

from bnfold import load
from bnfold.folding.candidates import Candidate, CandidateFinder
from bnfold.graph import ModelGraph

C = 4


def run(net: Net, *, output_at: int | None = None, axes: tuple[int, ...] = (1, 1, 1)) -> ModelGraph:
    """Three affines in a row between two Tanh, each along an axis; one of them may be an output."""
    y = net.op("Tanh", net.input(2, C, C), name="before")
    outputs = []
    for index, axis in enumerate(axes):
        shape = [1, 1, 1]
        shape[axis] = C
        y = net.op("Mul", y, net.draw(*shape), name=f"mul_{index}")
        if index == output_at:
            outputs.append(y)
    return load(net.build(net.op("Tanh", y, name="after"), *outputs)).graph


def found(graph: ModelGraph, name: str, fixed: frozenset[str] = frozenset()) -> list[str] | None:
    candidate = CandidateFinder(graph, fixed).of(name)
    return None if candidate is None else [op.name for op in candidate.ops]


ALL = ["mul_0", "mul_1", "mul_2"]


@pytest.mark.parametrize("name", ALL)
def test_every_member_knows_the_whole_run(name):
    assert found(run(Net()), name) == ALL


def test_what_is_no_affine_is_no_candidate():
    assert found(run(Net()), "before") is None


@pytest.mark.parametrize(("name", "expected"), [("mul_0", ["mul_0", "mul_1"]), ("mul_2", ["mul_2"])])
def test_a_run_ends_where_others_see_it(name, expected):
    assert found(run(Net(), output_at=1), name) == expected


@pytest.mark.parametrize(("name", "expected"), [("mul_0", ["mul_0"]), ("mul_1", ["mul_1", "mul_2"])])
def test_a_run_ends_where_the_axes_differ(name, expected):
    assert found(run(Net(), axes=(1, 2, 2)), name) == expected


@pytest.mark.parametrize(("name", "expected"), [("mul_0", ["mul_0"]), ("mul_1", None), ("mul_2", ["mul_2"])])
def test_fixed_operators_are_in_no_run(name, expected):
    assert found(run(Net()), name, frozenset({"mul_1"})) == expected


def test_a_candidate_knows_what_it_reads_and_computes():
    graph = run(Net())
    candidate = CandidateFinder(graph, frozenset()).of("mul_1")
    assert isinstance(candidate, Candidate)
    assert (candidate.input, candidate.slot) == (graph.op("mul_0").inputs[0], 0)
    assert candidate.output == graph.op("mul_2").outputs[0]
    factors = [graph.constant(graph.op(name).inputs[1]).exact().reshape(-1) for name in ALL]
    np.testing.assert_allclose(candidate.total.scale, np.prod(factors, axis=0), rtol=1e-12)


@pytest.mark.parametrize("training_mode", [0, 1])
def test_a_batchnorm_that_is_no_affine_stays_for_a_reason_of_its_own(training_mode):
    net = Net(opset=15)
    vectors = [net.positive(4), net.draw(4), net.draw(4), net.positive(4)]
    names = ["y", "mean", "variance"][: 3 if training_mode else 1]
    net.op("BatchNormalization", net.input("N", 4), *vectors, outputs=names, training_mode=training_mode, name="bn")
    net.output("y", shape=["N", 4])
    (left,) = fold_unrun(net.build()).plan.remaining
    assert (left.subject, left.is_batchnorm, left.is_own) == ("bn", True, bool(training_mode))
    assert (left.backward.code == "training-mode") == bool(training_mode)
    assert left.sentence().startswith("bn (BatchNormalization) stays" + (": bn " if training_mode else ". Backward: "))
