"""A Keras model that becomes an ONNX file: what is done to it once it is ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from bnfold.folding.plan import Plan
from bnfold.formats import load
from bnfold.graph import ConvertedModel, Model
from bnfold.graph.parameters import Unrounded
from bnfold.pipeline.course import Course
from bnfold.results import EqualizeResult, FoldResult
from bnfold.temporary import temporary_folder

_R = TypeVar("_R", FoldResult, EqualizeResult)


def in_target_format(result: _R, course: Course, again: Callable[[Model], _R]) -> _R:
    """The result with the model as the target's format has it.

    tf2onnx writes some BN as Mul and Add, and takes apart layers that a BN could not be folded into, so what was
    converted is folded ``again``.
    """
    if not course.converts:
        return result
    with temporary_folder() as folder:
        last = again(_converted(cast(ConvertedModel, result.model), folder))
    made = replace(result, model=last.model, summary=replace(result.summary, after=last.summary.after))
    if isinstance(made, FoldResult):
        return replace(made, plan=_both(made.plan, last.plan))
    return replace(made, folding=_both(made.folding, last.folding))


def _both(first: Plan, second: Plan) -> Plan:
    """The plan of a model that was folded before and after its conversion: what stays is what stayed in the end."""
    return Plan((*first.steps, *second.steps), second.remaining, (*first.notes, *second.notes))


def _converted(model: ConvertedModel, folder: Path) -> Model:
    """The ONNX model of one of another format; what was computed of its weights is not rounded before it is written."""
    path = folder / "converted.onnx"
    model.save(path)
    made = load(path)
    graph = made.graph.copy()
    known = model.unrounded_in_onnx(model.unrounded())
    known |= {
        name: partial(np.asarray, it.exact) for name, it in model.computed_in_onnx().items() if it.exact is not None
    }
    for name, exact in known.items():
        rounded = graph.params.get(name)
        if rounded is not None and rounded.shape:
            graph.params[name] = replace(rounded, data=Unrounded(exact, rounded.dtype), record=None)
    return made.with_graph(graph)
