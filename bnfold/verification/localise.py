"""Where two models part: the first tensor inside that differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bnfold.graph import Array
from bnfold.verification.comparison import Comparison, InnerJudge
from bnfold.verification.deviation import Measured, deviation
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.interface import match_inputs
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import Candidate, RunError, Session
from bnfold.verification.verdict import FirstDifference, OutputCheck

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Tensors fetched together at first; then as many as keep to this many bytes.
_FIRST_CHUNK = 16
_CHUNK_BYTES = 1 << 28


def first_differing(reference: Reference, model: OnnxFile, judge: InnerJudge) -> FirstDifference | None:
    """The first tensor, in the original's order, that both models name and whose values differ.

    Compared on the reference's first feed. Each tensor is judged as an output is, by what rounding
    does to that very tensor. None if all tensors that survived agree.
    """
    doubtful: dict[str, Array] = {}
    measured: Measured = {}
    for mine, theirs in _chunks(reference, model):
        for name, value in mine.items():
            item = deviation(value, theirs[name]) if name in theirs else None
            if item is not None and judge.doubts(item):
                doubtful[name], measured[name] = value, {0: item}
        # Many tensors are judged at once: the judge may have to make models of its own for that.
        if sum(value.nbytes for value in doubtful.values()) > _CHUNK_BYTES:
            found = _first_fault(reference.inside(doubtful), model, measured, judge)
            if found is not None:
                return _described(found, model.skeleton)
            doubtful, measured = {}, {}
    found = _first_fault(reference.inside(doubtful), model, measured, judge) if doubtful else None
    return None if found is None else _described(found, model.skeleton)


def _first_fault(inner: Reference, model: OnnxFile, measured: Measured, judge: InnerJudge) -> OutputCheck | None:
    """The check of the first tensor of an inner reference that differs in the other model."""
    checks = judge.judge(Comparison(inner, Candidate(model), measured)).checks
    return next((check for check in checks if not check.ok), None)


def _chunks(reference: Reference, model: OnnxFile) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """The tensors that may differ, of the original and of the other model, few enough at a time for memory."""
    names = telling_tensors(reference.model.skeleton, model.skeleton)
    size, position = _FIRST_CHUNK, 0
    while position < len(names):
        chunk = names[position : position + size]
        position += size
        mine = _fetch(reference, reference.model, chunk)
        yield mine, _fetch(reference, model, chunk)
        fetched = sum(value.nbytes for value in mine.values())
        size = max(1, min(512, _CHUNK_BYTES * len(chunk) // max(1, fetched)))


def _fetch(reference: Reference, model: OnnxFile, names: Sequence[str]) -> dict[str, Array]:
    """The values of the named tensors on the reference's first feed, of those that can be returned."""
    answers = reference.answers
    try:
        session = Session(model, reference.settings, content=model.with_outputs(names))
        matching = match_inputs(answers, session)
        fed = {matching[name]: value for name, value in answers.feeds[0].values.items()}
        values = session.run(fed, {name: name for name in names})
        return {name: values[name] for name in names if name in values}
    except RunError:
        if len(names) == 1:
            return {}
    half = len(names) // 2
    return {**_fetch(reference, model, names[:half]), **_fetch(reference, model, names[half:])}


def telling_tensors(a: ModelProto, b: ModelProto) -> list[str]:
    """The tensors that both main graphs compute and that may differ, in the topological order of ``a``.

    Where both compute a tensor by the same node from the same tensors and no weights, it can only
    differ if one of these does.
    """
    weights = {tensor.name for model in (a, b) for tensor in model.graph.initializer}
    theirs = {name: node for node in b.graph.node for name in node.output if name}
    return [
        name
        for node in a.graph.node
        for name in node.output
        if name in theirs and not (weights.isdisjoint(node.input) and _same_node(node, theirs[name]))
    ]


def _same_node(a: NodeProto, b: NodeProto) -> bool:
    """Whether two nodes compute the same from inputs of the same names; a constant may hold other values."""
    if a.op_type == "Constant" or any(attribute.HasField("g") or attribute.graphs for attribute in a.attribute):
        return False
    same_tensors = (a.op_type, a.domain, a.input, a.output) == (b.op_type, b.domain, b.input, b.output)
    mine, theirs = ({item.name: item for item in node.attribute} for node in (a, b))
    return same_tensors and mine == theirs


def _described(check: OutputCheck, model: ModelProto) -> FirstDifference:
    node = next(node for node in model.graph.node if check.name in node.output)
    amount = check.max_rel if check.nonfinite_agree and math.isfinite(check.factor) else math.inf
    return FirstDifference(check.name, node.name or node.output[0], node.op_type, amount, check.feed)
