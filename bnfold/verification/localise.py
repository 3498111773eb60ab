"""Where two models part: the first tensor inside that differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnfold.graph import Array
from bnfold.verification import noise
from bnfold.verification.compare import Deviation, deviation
from bnfold.verification.interface import match_inputs
from bnfold.verification.judge import Tolerance, judge, suspicious, undecided
from bnfold.verification.reference import Reference
from bnfold.verification.results import FirstDifference, OutputCheck
from bnfold.verification.sessions import RunError, Session
from bnfold.verification.source import OnnxFile

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Tensors fetched together at first; then as many as keep to this many bytes.
_FIRST_CHUNK = 16
_CHUNK_BYTES = 1 << 28


def first_differing(reference: Reference, model: OnnxFile, tolerance: Tolerance) -> FirstDifference | None:
    """The first tensor, in the original's order, that both models name and whose values differ.

    Compared on the reference's first feed. Each tensor is judged as an output is, against the
    rounding noise of that very tensor. None if all tensors that survived agree.
    """
    search = _Search(reference, model, tolerance)
    names = telling_tensors(reference.model.skeleton, model.skeleton)
    size, position = _FIRST_CHUNK, 0
    while position < len(names):
        chunk = names[position : position + size]
        position += size
        found = search.first_in(chunk)
        if found is not None:
            return _described(found, model.skeleton, reference.answers.feeds[0].description)
        size = max(1, min(512, _CHUNK_BYTES * len(chunk) // max(1, search.fetched_bytes)))
    return None


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


@dataclass
class _Search:
    """Fetches inner tensors of the original, of the other model, and of the original under jitter."""

    reference: Reference
    model: OnnxFile
    tolerance: Tolerance
    #: What the original's last chunk of tensors took.
    fetched_bytes: int = 0

    def first_in(self, names: Sequence[str]) -> OutputCheck | None:
        """The check of the first of ``names`` that differs."""
        mine = self._fetch(self.reference.model, names)
        theirs = self._fetch(self.model, names)
        self.fetched_bytes = sum(value.nbytes for value in mine.values())
        compared = {name: deviation(value, theirs[name]) for name, value in mine.items() if name in theirs}
        noises = {} if self.tolerance.given else self._noises(mine, compared)
        for name, item in compared.items():
            check = judge(name, [item], [noises.get(name, [])], self.tolerance, [""])
            if not check.ok:
                return check
        return None

    def _noises(
        self, mine: Mapping[str, Array], compared: Mapping[str, Deviation]
    ) -> dict[str, Sequence[Deviation] | None]:
        """The original's deviations from itself for each doubtful tensor; None where they cannot be measured."""
        noises: dict[str, list[Deviation]] = {name: [] for name, item in compared.items() if suspicious(item)}
        names = list(noises)
        for sample in range(noise.MANY_SAMPLES):
            if sample >= noise.FEW_SAMPLES:
                names = [name for name in names if undecided(compared[name], noises[name])]
            if not names:
                break
            content = noise.jittered_model(self.reference.model, self.reference.settings.seed, sample)
            if content is None:
                break
            for name, value in self._fetch(self.reference.model, names, content, sample).items():
                item = deviation(mine[name], value)
                if not item.fault:
                    noises[name].append(item)
        return {name: found or None for name, found in noises.items()}

    def _fetch(
        self, model: OnnxFile, names: Sequence[str], content: bytes | None = None, sample: int | None = None
    ) -> dict[str, Array]:
        """The values of the named tensors; none of one that the runtime cannot return."""
        try:
            answers = self.reference.answers
            session = Session(model, self.reference.settings, content=model.with_outputs(names, content))
            values = answers.feeds[0].values
            if sample is not None:
                values = noise.jittered_feed(values, self.reference.settings.seed, sample)
            matching = match_inputs(answers, session)
            fed = {matching[name]: value for name, value in values.items()}
            return session.run(fed, {name: name for name in names})
        except RunError:
            if len(names) == 1:
                return {}
        half = len(names) // 2
        first = self._fetch(model, names[:half], content, sample)
        return {**first, **self._fetch(model, names[half:], content, sample)}


def _described(check: OutputCheck, model: ModelProto, feed: str) -> FirstDifference:
    node = next(node for node in model.graph.node if check.name.partition("[")[0] in node.output)
    amount = check.max_rel if check.nonfinite_agree and math.isfinite(check.factor) else math.inf
    return FirstDifference(check.name, node.name or node.output[0], node.op_type, amount, feed)
