"""A wrong fold planted at every step of a plan in turn is caught, localised, and traced to its step.

A fold is wrong if it puts an affine into the weights that is not the one it took out. So the parameters
of one operator are changed, and only where that operator is folded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
from verification_models import verify

import bnfold
from bnfold.folding import FoldStep, fold_graph
from bnfold.graph import ModelGraph, Param
from bnfold.verification import VerifyOptions, smallest_failing

pytestmark = pytest.mark.slow

SAMPLES = sorted((Path(__file__).parents[2] / "sample_models").glob("*.onnx"))


def scaled(gamma: np.ndarray) -> np.ndarray:
    """One channel is off by a thousandth."""
    gamma[len(gamma) // 2] *= 1.001
    return gamma


def swapped(gamma: np.ndarray) -> np.ndarray:
    """Every channel gets another one's scale."""
    return np.roll(gamma, 1)


def tampered(graph: ModelGraph, step: FoldStep, change: Callable[[np.ndarray], np.ndarray]) -> ModelGraph:
    """A copy in which the BN of that step has another gamma."""
    copy = graph.copy()
    name = copy.op(step.subject).inputs[1]
    param = copy.params[name]
    copy.params[name] = Param.of(name, change(param.array().astype(np.float64)), param.dtype)
    return copy


def plan_of(model) -> tuple[FoldStep, ...]:
    steps = fold_graph(model.graph, branches=False)[1].steps
    assert len({step.subject for step in steps}) == len(steps)
    return tuple(step for step in steps if step.type == "BatchNormalization")


@pytest.mark.parametrize("change", [scaled, swapped])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_wrong_step_is_caught_and_traced(path, change):
    model = bnfold.load(path)
    steps = plan_of(model)
    assert steps
    for wrong in steps:
        right, broken = model.graph, tampered(model.graph, wrong, change)

        def refold(kept: Collection[str], wrong=wrong, right=right, broken=broken):
            skip = {step.subject for step in steps} - set(kept)
            graph = broken if wrong.subject in kept else right
            return model.with_graph(fold_graph(graph, branches=False, skip=skip)[0])

        check = verify(model, refold([step.subject for step in steps]), intermediates=True)
        assert check.verdict == "different", wrong.sentence()
        assert check.first_difference is not None, wrong.sentence()
        # Between the two nothing that both models have is left: a gauge may have moved into all of it.
        order = [op.label for op in refold([step.subject for step in steps]).graph.ops()]
        first = min(map(order.index, wrong.into), default=0)
        assert order.index(check.first_difference.node) >= first, wrong.sentence()
        found = smallest_failing(
            [step.subject for step in steps], refold, original=model, options=VerifyOptions(intermediates=True, feeds=3)
        )
        assert found == (wrong.subject,)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_same_plan_done_right_passes(path):
    model = bnfold.load(path)
    for branches in (False, True):
        folded = model.with_graph(fold_graph(model.graph, branches=branches)[0])
        assert verify(model, folded, intermediates=True).equivalent
        assert verify(model, folded, strict=True).equivalent
